"""Number formats in training."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def float32(tree: Any) -> Any:
    """Casts the floating-point tensors of nested dicts, lists and tuples to float32.

    For network outputs computed under autocast: bfloat16 has 8 significant bits, too few for box coordinates (steps of
    1 px at 128 px), so a detection loss should not decode boxes in it.
    """
    if isinstance(tree, dict):
        return {key: float32(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(float32(value) for value in tree)
    return tree.float() if isinstance(tree, Tensor) and tree.is_floating_point() else tree
