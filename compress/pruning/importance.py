"""Importance scores of channels, by name, as torch-pruning computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compress.errors import UserError

Importance = Callable[[Any], Tensor | None]
"""Maps a torch-pruning group to one score per channel of its first layer, or to None if it does not apply."""


def _group_l1() -> Importance:
    """Mean L1 norm of all weights coupled to a channel (Fang et al. 2023, DepGraph, arXiv:2301.12900)."""
    from torch_pruning.pruner.importance import GroupMagnitudeImportance

    return GroupMagnitudeImportance(p=1)


def _group_l2() -> Importance:
    """Mean squared L2 norm of all weights coupled to a channel (Fang et al. 2023, DepGraph, arXiv:2301.12900)."""
    from torch_pruning.pruner.importance import GroupMagnitudeImportance

    return GroupMagnitudeImportance(p=2)


def _bn_scale() -> Importance:
    """Mean BatchNorm scale of a channel (Liu et al. 2017, Network Slimming, arXiv:1708.06519)."""
    from torch_pruning.pruner.importance import BNScaleImportance

    return BNScaleImportance()


def _lamp() -> Importance:
    """Squared norm over the sum of the squared norms not smaller (Lee et al. 2021, LAMP, arXiv:2010.07611, eq. 1)."""
    from torch_pruning.pruner.importance import LAMPImportance

    return LAMPImportance()


def _fpgm() -> Importance:
    """Sum of the distances to the other filters of the layer (He et al. 2019, FPGM, arXiv:1811.00250)."""
    from torch_pruning.pruner.importance import FPGMImportance

    return FPGMImportance()


def _taylor() -> Importance:
    """First-order estimate of the change in loss when a channel is removed: sum of |weight x gradient|, mean over the
    convolutions and linear layers coupled to it (after Molchanov et al. 2019, "Importance Estimation for Neural Network
    Pruning", arXiv:1906.10771).

    Not normalised per group: changes in loss are comparable across layers, as a global ranking requires.
    """
    from torch_pruning.pruner.importance import GroupTaylorImportance

    return _with_gradients("taylor", GroupTaylorImportance(normalizer=None))


def _hessian() -> Importance:
    """Second-order estimate of the same: sum of weight^2 x squared gradient, mean over the coupled layers (LeCun et al.
    1989, "Optimal Brain Damage", eq. 5, with the diagonal of the Fisher matrix in place of the Hessian's: Theis et al.
    2018, arXiv:1801.05787)."""
    from torch_pruning.pruner.importance import GroupHessianImportance

    return _with_gradients("hessian", GroupHessianImportance(normalizer=None))


def _with_gradients(name: str, score: Importance) -> Importance:
    def checked(group: Any) -> Tensor | None:
        weights = (getattr(dep.target.module, "weight", None) for dep, _ in group)
        if all(weight.grad is None for weight in weights if weight is not None):
            raise UserError("prune.importance", name, "needs gradients: call gradients.accumulate_gradients first")
        return score(group)

    return checked


def _random() -> Importance:
    """Random scores from a fixed seed: the control that other importances must beat."""
    generator = torch.Generator().manual_seed(0)
    return lambda group: torch.rand(len(group[0].idxs), generator=generator)


IMPORTANCES: dict[str, Callable[[], Importance]] = {
    "group_l1": _group_l1,
    "group_l2": _group_l2,
    "bn_scale": _bn_scale,
    "lamp": _lamp,
    "fpgm": _fpgm,
    "random": _random,
    "taylor": _taylor,
    "hessian": _hessian,
}
# {importance that needs gradients: whether it needs them squared}, see `gradients.accumulate_gradients`
NEED_GRADIENTS = {"taylor": False, "hessian": True}


def importance(name: str) -> Importance:
    """The importance with this name.

    Raises:
        UserError: unknown name.
    """
    if name not in IMPORTANCES:
        raise UserError("prune.importance", name, f"choose one of {', '.join(IMPORTANCES)}")
    return IMPORTANCES[name]()
