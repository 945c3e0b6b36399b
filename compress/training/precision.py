"""Number formats in training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, format: str) -> AbstractContextManager[None]:
    """A context in which operations that profit from `format`, a key of `DTYPES`, compute in it."""
    return nullcontext() if format == "fp32" else torch.autocast(device.type, DTYPES[format])


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
