"""Importance scores of channels, by name, as torch-pruning computes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compress.errors import UserError

Importance = Callable[[Any], Tensor | None]
"""Maps a torch-pruning group to one score per channel of its first layer, or to None if it does not apply."""


def _torch_pruning(kind: str, **options: Any) -> Importance:
    from torch_pruning.pruner import importance

    return getattr(importance, kind)(**options)


def _with_gradients(name: str, kind: str, reduction: str = "mean") -> Importance:
    # Not normalised per group: changes in loss are comparable across layers, as a global ranking requires.
    score = _torch_pruning(kind, group_reduction=reduction, normalizer=None)

    def checked(group: Any) -> Tensor | None:
        weights = (getattr(dep.target.module, "weight", None) for dep, _ in group)
        if all(weight.grad is None for weight in weights if weight is not None):
            raise UserError("prune.importance", name, "needs gradients: call gradients.accumulate_gradients first")
        return score(group)

    return checked


def _random() -> Importance:
    generator = torch.Generator().manual_seed(0)
    return lambda group: torch.rand(len(group[0].idxs), generator=generator)


IMPORTANCES: dict[str, Callable[[], Importance]] = {
    # Mean L1 and squared L2 norm of all weights coupled to a channel (Fang et al. 2023, DepGraph, arXiv:2301.12900).
    "group_l1": partial(_torch_pruning, "GroupMagnitudeImportance", p=1),
    "group_l2": partial(_torch_pruning, "GroupMagnitudeImportance", p=2),
    # Mean BatchNorm scale of a channel (Liu et al. 2017, Network Slimming, arXiv:1708.06519).
    "bn_scale": partial(_torch_pruning, "BNScaleImportance"),
    # Squared norm over the sum of the squared norms not smaller (Lee et al. 2021, LAMP, arXiv:2010.07611, eq. 1).
    "lamp": partial(_torch_pruning, "LAMPImportance"),
    # Sum of the distances to the other filters of the layer (He et al. 2019, FPGM, arXiv:1811.00250).
    "fpgm": partial(_torch_pruning, "FPGMImportance"),
    # Random scores from a fixed seed: the control that other importances must beat.
    "random": _random,
    # First-order estimate of the change in loss when a channel is removed: sum of |weight x gradient|, mean over the
    # convolutions and linear layers coupled to it (after Molchanov et al. 2019, "Importance Estimation for Neural
    # Network Pruning", arXiv:1906.10771).
    "taylor": partial(_with_gradients, "taylor", "GroupTaylorImportance"),
    # The same, summed over the coupled layers. In a residual stage each layer estimates only its part of the change, so
    # that the mean is too small by the number of blocks, and the stage loses too many channels (docs/benchmarks.md).
    "taylor_sum": partial(_with_gradients, "taylor_sum", "GroupTaylorImportance", "sum"),
    # Second-order estimate of the same: sum of weight^2 x squared gradient, mean over the coupled layers (LeCun et al.
    # 1989, "Optimal Brain Damage", eq. 5, with the diagonal of the Fisher matrix in place of the Hessian's: Theis et
    # al. 2018, arXiv:1801.05787).
    "hessian": partial(_with_gradients, "hessian", "GroupHessianImportance"),
}
# {importance that needs gradients: whether it needs them squared}, see `gradients.accumulate_gradients`
NEED_GRADIENTS = {"taylor": False, "taylor_sum": False, "hessian": True}


def importance(name: str) -> Importance:
    """The importance with this name. Raises UserError if it is unknown."""
    if name not in IMPORTANCES:
        raise UserError("prune.importance", name, f"choose one of {', '.join(IMPORTANCES)}")
    return IMPORTANCES[name]()
