"""Gradients of the loss, summed over batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.pruning.gradients import accumulate_gradients
from tests.models.toy import Net, layer, randomise

EXAMPLE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return randomise(Net(width=64))


@pytest.mark.parametrize("format", ["fp32", "bf16"])
def test_gradients_of_a_loss_that_is_not_finite_are_none(net: Net, format: str) -> None:
    batch = {"img": EXAMPLE}
    with pytest.raises(FloatingPointError, match="nan"):
        accumulate_gradients(net, lambda net, batch: net(batch["img"]).sum() * torch.nan, [batch], format=format)


def batches() -> list[dict[str, Tensor]]:
    return [{"img": image} for image in (torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -4.0]]))]


def weighted(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Losses whose gradient for the weights is the image."""
    return net(batch["img"])


def linear() -> nn.Linear:
    return nn.Linear(2, 1, bias=False)


def gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_gradients_are_summed_over_batches() -> None:
    net = linear()
    net.weight.grad = torch.full((1, 2), 100.0)  # left over from something else
    accumulate_gradients(net, weighted, batches())
    assert gradient(net.weight).tolist() == [[4.0, -2.0]]


def test_squares_are_those_of_each_batch() -> None:
    net = linear()
    accumulate_gradients(net, weighted, batches(), squared=True)
    assert gradient(net.weight).tolist() == [[1.0 + 9.0, 4.0 + 16.0]]


def test_what_the_loss_does_not_depend_on_has_a_gradient_of_zero() -> None:
    used, left = linear(), nn.Linear(2, 1)
    net = nn.ModuleList([used, left])
    for squared in (False, True):
        accumulate_gradients(net, lambda _, batch: used(batch["img"]), batches(), squared=squared)
        assert gradient(left.weight).tolist() == [[0.0, 0.0]] and gradient(left.bias).tolist() == [0.0]


@pytest.mark.parametrize("training", [False, True])
def test_statistics_and_the_mode_stay_as_they_were(net: Net, training: bool) -> None:
    net.train(training)
    before = {name: value.clone() for name, value in net.named_buffers()}
    seen: list[bool] = []

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        seen.append(net.training)
        return net(batch["img"]).square()

    accumulate_gradients(net, loss, [{"img": EXAMPLE}])
    assert seen == [True] and net.training is training  # detectors return what their loss needs in this mode only
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    assert all(module.training is training for module in net.modules())


def test_the_gradient_is_that_of_the_deployed_network(net: Net) -> None:
    """With running statistics, the loss of a batch is the sum of those of its images."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    result: list[Tensor] = []
    for split in ([images], [images[:1], images[1:]]):
        accumulate_gradients(net, lambda net, batch: net(batch["img"]).square(), [{"img": each} for each in split])
        result.append(gradient(layer(net, "stem.0", nn.Conv2d).weight).clone())
    assert torch.allclose(result[0], result[1], rtol=1e-3, atol=1e-4)
