from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from compress.reconstruction.layers import trace
from compress.reconstruction.problem import Problem, Solution
from tests.models.toy import layer

IMAGES = torch.rand(30, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def network(groups: int = 1, norm: bool = True, bias: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, padding=1, groups=groups, bias=bias)
    net = nn.Sequential(conv, *([nn.BatchNorm2d(8)] if norm else [])).eval()
    with torch.no_grad():
        for value in net[1:].state_dict().values():
            if value.ndim:
                value.uniform_(0.5, 1.5)
        if norm:
            norm_of(net).weight[3] *= -1
    return net


def conv_of(net: nn.Module) -> nn.Conv2d:
    return layer(net, "0", nn.Conv2d)


def norm_of(net: nn.Module) -> nn.BatchNorm2d:
    return layer(net, "1", nn.BatchNorm2d)


def changed(net: nn.Sequential) -> nn.Sequential:
    """The reference: other filters, of other norms, and another bias."""
    reference = copy.deepcopy(net)
    with torch.no_grad():
        for value in reference.parameters():
            value.add_(0.3 * torch.rand(value.shape, generator=torch.Generator().manual_seed(1)))
    return reference


def outputs(net: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return net(images)


def solved(net: nn.Sequential, reference: nn.Sequential, growth: float = 100) -> Solution | None:
    """Solves the convolution on two batches."""
    problem = Problem(net, trace(net, IMAGES[:1])[0][0], len(IMAGES), seed=0)
    for start in (0, 20):
        problem.add_targets(start, reference, outputs(reference[0], IMAGES[start : start + 20]), None)
    for start in (20, 0):
        problem.add_inputs(start, IMAGES[start : start + 20])
    assert not problem.targets
    with torch.no_grad():
        return problem.solve(growth)


@pytest.mark.parametrize(
    "net", [network(), network(groups=2), network(groups=4, bias=True), network(norm=False, bias=True)]
)
def test_the_layer_reproduces_its_target(net: nn.Sequential) -> None:
    reference = changed(net)
    error = (outputs(net) - outputs(reference)).abs().max()
    solution = solved(net, reference)
    assert solution is not None and solution.after < 1e-4 * solution.before and solution.layer == "0"
    assert (outputs(net) - outputs(reference)).abs().max() < 0.01 * error


def test_without_a_bias_none_is_made_up() -> None:
    net, reference = network(norm=False), changed(network(norm=False))
    assert solved(net, reference) is not None and conv_of(net).bias is None
    assert torch.allclose(conv_of(net).weight, conv_of(reference).weight, atol=0.01)


def test_filters_keep_their_norm_and_statistics_are_those_of_the_outputs() -> None:
    """Then training mode computes the same function, at the same learning rate."""
    net = network()
    norms, signs = conv_of(net).weight.flatten(1).norm(dim=1), norm_of(net).weight.sign()
    assert solved(net, changed(net)) is not None
    assert torch.allclose(conv_of(net).weight.flatten(1).norm(dim=1), norms, rtol=1e-4)
    assert torch.equal(norm_of(net).weight.sign(), signs)
    values = outputs(net[0])
    mean, variance = norm_of(net).running_mean, norm_of(net).running_var
    assert mean is not None and torch.allclose(values.mean((0, 2, 3)), mean, atol=0.05)
    assert variance is not None and torch.allclose(values.var((0, 2, 3)), variance, rtol=0.15)


def test_the_bound_is_that_of_the_whole_affine_function() -> None:
    net = network()
    reference = copy.deepcopy(net)
    with torch.no_grad():
        norm_of(reference).weight.mul_(5)
    solution = solved(net, reference, growth=2)
    assert solution is not None and 1 < solution.growth <= 2 < 0.5 * 5
    solution = solved(net, reference, growth=10)
    assert solution is not None and solution.growth < 5 and solution.after < 1e-4


def test_what_reproduces_its_target_stays() -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    assert solved(net, copy.deepcopy(net)) is None
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
