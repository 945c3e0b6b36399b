"""Raw outputs of a network as NumPy arrays. Most networks have one; instance segmentation has two: rows with mask
coefficients, and mask prototypes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch.utils._pytree import tree_leaves

Outputs = np.ndarray | tuple[np.ndarray, ...]  # float32 (b, …) each; a tuple only of several


def arrays(outputs: Outputs) -> tuple[np.ndarray, ...]:
    """Returns the output or outputs as a tuple."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def pack(several: Iterable[np.ndarray]) -> Outputs:
    """Returns the only array, or a tuple of several: the inverse of `arrays`."""
    packed = tuple(several)
    return packed[0] if len(packed) == 1 else packed


def first(outputs: Outputs) -> np.ndarray:
    """Returns the first output, which holds the boxes and scores of detectors."""
    return arrays(outputs)[0]


def from_torch(returned: object) -> Outputs:
    """Returns the tensors in the return value of a torch network, on the CPU, in the order of `tree_leaves`, in which
    graphs are exported too."""
    return pack(tensor.cpu().numpy() for tensor in tree_leaves(returned))
