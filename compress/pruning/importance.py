"""How much a channel matters: torch-pruning's scores by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compress.errors import UserError

Importance = Callable[[Any], Tensor | None]
"""A torch-pruning group to one score a channel of its first layer, or None where the group has no such scores."""


def _group_l1() -> Importance:
    """Mean L1 norm of all weights coupled to a channel (Fang et al. 2023, DepGraph)."""
    from torch_pruning.pruner.importance import GroupMagnitudeImportance

    return GroupMagnitudeImportance(p=1)


def _group_l2() -> Importance:
    """Mean squared L2 norm of all weights coupled to a channel (Fang et al. 2023, DepGraph)."""
    from torch_pruning.pruner.importance import GroupMagnitudeImportance

    return GroupMagnitudeImportance(p=2)


def _bn_scale() -> Importance:
    """Scale of the BatchNorms that a channel passes (Liu et al. 2017, Network Slimming)."""
    from torch_pruning.pruner.importance import BNScaleImportance

    return BNScaleImportance()


def _lamp() -> Importance:
    """Squared norm divided by the sum of the norms not smaller (Lee et al. 2021, LAMP, eq. 1)."""
    from torch_pruning.pruner.importance import LAMPImportance

    return LAMPImportance()


def _fpgm() -> Importance:
    """Distance to the other filters (He et al. 2019, FPGM)."""
    from torch_pruning.pruner.importance import FPGMImportance

    return FPGMImportance()


def _taylor() -> Importance:
    """First-order estimate of how the loss changes when a channel goes: |sum of weight x gradient| over all weights
    coupled to it (Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", eq. 8).

    Not normalised within a group: losses compare across layers as they are, which is what a global ranking needs.
    """
    from torch_pruning.pruner.importance import GroupTaylorImportance

    return _with_gradients("taylor", GroupTaylorImportance(normalizer=None))


def _hessian() -> Importance:
    """Second-order estimate of the same: sum of weight^2 x mean squared gradient, the diagonal of the Fisher matrix in
    place of the Hessian's (LeCun et al. 1989, "Optimal Brain Damage", eq. 5; Theis et al. 2018, arXiv:1801.05787)."""
    from torch_pruning.pruner.importance import GroupHessianImportance

    return _with_gradients("hessian", GroupHessianImportance(normalizer=None))


def _with_gradients(name: str, score: Importance) -> Importance:
    def checked(group: Any) -> Tensor | None:
        weights = (getattr(dep.target.module, "weight", None) for dep, _ in group)
        if all(weight.grad is None for weight in weights if weight is not None):
            raise UserError("prune.importance", name, "needs gradients: call sensitivity.accumulate_gradients first")
        return score(group)

    return checked


def _random() -> Importance:
    """Random scores, the same at every call: the control that other importances must beat."""
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
# What these want to find in `.grad`, as `sensitivity.accumulate_gradients` leaves it: is it squared?
NEED_GRADIENTS = {"taylor": False, "hessian": True}


def importance(name: str) -> Importance:
    """The importance called `name`.

    Raises:
        UserError: no importance of that name.
    """
    if name not in IMPORTANCES:
        raise UserError("prune.importance", name, f"choose one of {', '.join(IMPORTANCES)}")
    return IMPORTANCES[name]()
