"""The estimate that guides the search, against networks from which channels were removed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.measurement import flops
from compress.pruning.estimate import Estimate
from compress.pruning.groups import Group, find_groups
from compress.pruning.importance import importance

EXAMPLE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(width: int = 8) -> nn.Sequential:
    """A convolution, a depthwise one, one without padding, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, 6, 3), nn.Flatten(),
        nn.Linear(6 * 6 * 6, 5),
    )  # fmt: skip


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return network()


def first_group(net: nn.Module) -> Group:
    groups, _ = find_groups(net, EXAMPLE, {"6": "gives the output"}, importance("group_l1"))
    return next(group for group in groups if any(cut.layer == "0" for cut in group.cuts))


def test_the_cost_is_the_macs_of_the_network(net: nn.Sequential) -> None:
    assert Estimate(net, EXAMPLE).cost == flops.count(net, EXAMPLE).macs


def test_without_channels_it_is_the_macs_of_the_smaller_network(net: nn.Sequential) -> None:
    group, estimate = first_group(net), Estimate(net, EXAMPLE)
    estimate.change(group.cuts, [0, 3, 7], -1)
    assert estimate.cost == flops.count(network(5), EXAMPLE).macs


def test_what_is_saved_is_the_difference_and_changes_nothing(net: nn.Sequential) -> None:
    group, estimate = first_group(net), Estimate(net, EXAMPLE)
    full = estimate.cost
    assert estimate.saved(iter(group.cuts), iter([1, 2])) == full - flops.count(network(6), EXAMPLE).macs
    assert estimate.cost == full
    estimate.change(group.cuts, [1, 2], -1)
    estimate.change(group.cuts, [1, 2], +1)
    assert estimate.cost == full


def test_what_a_channel_saves_depends_on_those_that_are_gone(net: nn.Sequential) -> None:
    """The last convolution has its own groups: with half of its outputs, an input saves half there."""
    groups, _ = find_groups(net, EXAMPLE, {"6": "gives the output"}, importance("group_l1"))
    group, last = first_group(net), next(group for group in groups if group.name == "4")
    estimate = Estimate(net, EXAMPLE)
    before = estimate.saved(group.cuts, [0])
    estimate.change(last.cuts, [0, 1, 2], -1)
    assert before - estimate.saved(group.cuts, [0]) == 3 * 9 * 36  # outputs, kernel, positions


def test_times_shrink_with_both_sides_and_layers_without_one_cost_nothing(net: nn.Sequential) -> None:
    group, estimate = first_group(net), Estimate(net, EXAMPLE, {"0": 4.0, "4": 10.0})
    assert estimate.cost == pytest.approx(14.0)
    estimate.change(group.cuts, [0, 1], -1)
    assert estimate.cost == pytest.approx(14.0 * 6 / 8)  # outputs of the first, inputs of the other


def test_a_layer_that_runs_twice_costs_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    assert Estimate(Twice(), EXAMPLE).cost == 2 * 64 * 9


def test_the_network_is_left_as_it_was(net: nn.Sequential) -> None:
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    Estimate(net, EXAMPLE)
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
