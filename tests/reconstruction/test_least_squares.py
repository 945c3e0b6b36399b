from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.reconstruction.least_squares import RIDGES, Moments, select_ridge, solve, solve_bounded


def samples(count: int = 200, noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (2, n, 3) with offsets, their errors (2, n, 2) and the weight (2, 2, 3) that explains them, plus 5."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, count, 3, generator=generator).double() * torch.tensor([1.0, 10.0, 0.1]) + 2
    weight = torch.randn(2, 2, 3, generator=generator).double()
    return x, x @ weight.mT + 5 + noise * torch.randn(2, count, 2, generator=generator), weight


@pytest.mark.parametrize("biased", [True, False])
def test_the_solution_explains_the_error(biased: bool) -> None:
    x, e, weight = samples()
    e = e if biased else e - 5
    change, bias = solve(Moments.of(x, e), 1e-9, biased)
    assert torch.allclose(change, weight, atol=1e-5)
    assert torch.allclose(bias, torch.full_like(bias, 5.0 * biased), atol=1e-4)


def test_the_error_from_moments_is_that_of_the_samples() -> None:
    x, e, weight = samples(noise=1.0)
    parts = Moments.of(x[:, :50], e[:, :50]) + Moments.of(x[:, 50:], e[:, 50:])
    bias = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()
    direct = (e - x @ weight.mT - bias[:, None]).square().mean(1)
    assert torch.allclose(parts.error(weight, bias), direct)


def test_constant_and_zero_inputs_get_no_weight() -> None:
    x, e, _ = samples()
    x[..., 1], x[..., 2] = 0, 4
    change, bias = solve(Moments.of(x, e), 1e-4, True)
    assert change[..., 1:].abs().max() < 1e-5 and torch.isfinite(bias).all()
    change, _ = solve(Moments.of(0 * x, e), 1e-4, True)
    assert not change.any()


def test_the_ridge_is_stronger_the_less_the_samples_tell() -> None:
    x, e, _ = samples(10_000, noise=30.0)
    held_out = Moments.of(x[:, 5000:], e[:, 5000:])
    many, few = (select_ridge(Moments.of(x[:, :n], e[:, :n]), held_out, True) for n in (5000, 6))
    assert many is not None and many < (few or 10)
    exact, e, _ = samples()
    assert select_ridge(Moments.of(exact, e), Moments.of(exact, e), True) == min(RIDGES)
    nothing = torch.zeros_like(e)
    assert select_ridge(Moments.of(exact, nothing), Moments.of(exact, nothing), True) is None


def test_the_bound_holds_for_each_output() -> None:
    x, e, weight = samples()
    before = torch.zeros_like(weight)
    before[0, 0], before[1] = 0.1 * weight[0, 0], weight[1]
    e = e - x @ before.mT
    change, _ = solve_bounded(Moments.of(x, e), 1e-9, True, before, growth=2)
    after = before + change
    assert torch.all(after.norm(dim=2) <= 2 * before.norm(dim=2) + 1e-12)
    assert torch.allclose(after[1], weight[1], atol=1e-5)  # needs no bound
    assert change[0, 0].norm() > 0 and not change[0, 1].any()  # an output without weights keeps none
