"""Ridge regression from accumulated moments: the change of a layer's weights that best explains its remaining error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # candidates, relative to the variance of each input
FLOOR = 1e-3  # added to each variance, relative to their mean, so that constant inputs are not amplified


@dataclass
class Moments:
    """Sums over samples of inputs x (k values) and errors e (o values), for each of g groups, in float64."""

    count: int
    x: Tensor  # (g, k): sum of x
    e: Tensor  # (g, o)
    xx: Tensor  # (g, k, k)
    xe: Tensor  # (g, k, o)
    ee: Tensor  # (g, o): sum of squares

    @classmethod
    def of(cls, x: Tensor, e: Tensor) -> Moments:
        """Moments of inputs (g, n, k) and errors (g, n, o)."""
        return cls(x.shape[1], x.sum(1), e.sum(1), x.mT @ x, x.mT @ e, e.square().sum(1))

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def covariances(self, centred: bool) -> tuple[Tensor, Tensor]:
        """Covariance of x, (g, k, k), and of x and e, (g, k, o); without `centred` their mean products."""
        xx, xe = self.xx / self.count, self.xe / self.count
        if centred:
            x, e = self.x / self.count, self.e / self.count
            xx, xe = xx - x[:, :, None] * x[:, None], xe - x[:, :, None] * e[:, None]
        return xx, xe

    def error(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Mean square of e - weight x - bias, (g, o), for weight (g, o, k) and bias (g, o)."""
        explained = torch.einsum("gok,gkl,gol->go", weight, self.xx, weight) - 2 * (weight * self.xe.mT).sum(2)
        constant = 2 * bias * (torch.einsum("gok,gk->go", weight, self.x) - self.e)
        return (self.ee + explained + constant) / self.count + bias.square()


def solve(moments: Moments, ridge: float, biased: bool) -> tuple[Tensor, Tensor]:
    """The weight (g, o, k) and bias (g, o; zero unless `biased`) that minimise the mean square of e - weight x - bias
    plus `ridge` times the squares of the weights, each times the variance of its input."""
    xx, xe = moments.covariances(biased)
    variance = xx.diagonal(dim1=1, dim2=2)
    scale = variance.mean(1, keepdim=True)
    # Where all inputs are zero the lower bound is arbitrary, and the solution zero.
    penalty = ridge * variance + FLOOR * ridge * scale + torch.finfo(torch.float64).tiny + 1e-12 * scale
    weight = torch.linalg.solve(xx + penalty.diag_embed(), xe).mT
    bias = torch.zeros_like(moments.e)
    if biased:
        bias = (moments.e - torch.einsum("gok,gk->go", weight, moments.x)) / moments.count
    return weight, bias


def select_ridge(fitted: Moments, held_out: Moments, biased: bool) -> float | None:
    """The candidate whose solution on `fitted` has the least error on `held_out`; None if all increase it."""
    best, least = None, held_out.ee.sum() / held_out.count
    for ridge in RIDGES:
        error = held_out.error(*solve(fitted, ridge, biased)).sum()
        if error < least:
            best, least = ridge, error
    return best


def solve_bounded(moments: Moments, ridge: float, biased: bool, weight: Tensor, growth: float) -> tuple[Tensor, Tensor]:
    """As `solve`, but no output's norm of `weight` (g, o, k) plus its change exceeds `growth` times that of `weight`:
    outputs that would exceed it are solved with a stronger ridge, ten times each, or keep their weights."""
    limit = growth * weight.norm(dim=2)
    change, bias = torch.zeros_like(weight), moments.e / moments.count * biased
    pending = torch.ones_like(limit, dtype=torch.bool)
    while pending.any() and ridge <= 1e4:
        solved, constant = solve(moments, ridge, biased)
        good = pending & ((weight + solved).norm(dim=2) <= limit)
        change[good], bias[good] = solved[good], constant[good]
        pending &= ~good
        ridge *= 10
    return change, bias
