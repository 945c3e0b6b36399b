from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compress.config import PruneConfig
from compress.errors import UserError
from compress.pruning.allocation import ALLOCATIONS
from compress.pruning.solver import composed, prune_to_flops, prune_to_ratio
from tests.models.toy import Net, layer, randomise

EXAMPLE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PROTECTED = {"head": "gives the classes"}


def count(net: nn.Module) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(EXAMPLE)
    return counter.get_total_flops() // 2


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return randomise(Net(width=64))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_budget_is_met_and_nearly_used_up(net: Net, allocation: str, share: float) -> None:
    full = count(net)
    config = PruneConfig(allocation=allocation)
    pruned = prune_to_flops(net, EXAMPLE, PROTECTED, config, budget_macs=share * full, count=count)
    assert pruned.macs == count(pruned.net) <= share * full
    assert pruned.macs > 0.9 * share * full  # seven groups in steps of eight channels are coarse
    assert pruned.reachable is not None and pruned.reachable[1] == full
    assert pruned.net(EXAMPLE).shape == (1, 10)
    assert pruned.channels and all(after < before and after % 8 == 0 for before, after in pruned.channels.values())


def test_nothing_happens_to_the_given_network_or_without_need(net: Net) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pruned = prune_to_flops(net, EXAMPLE, PROTECTED, PruneConfig(), budget_macs=count(net), count=count)
    assert pruned.ratio == 0 and not pruned.channels
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(pruned.net.eval()(EXAMPLE), net.eval()(EXAMPLE))


def test_unreachable_budget_names_the_range(net: Net) -> None:
    with pytest.raises(UserError, match="can reach .* G to .* G FLOPs") as caught:
        prune_to_flops(net, EXAMPLE, PROTECTED, PruneConfig(max_ratio=0.3), budget_macs=0.1 * count(net), count=count)
    assert caught.value.key == "budget.flops"


def test_it_is_the_least_important_channels_that_go(net: Net) -> None:
    """Channels that are zero everywhere change nothing when they leave."""
    idle = [3, 5, 9, 17, 33, 40, 41, 60]
    assert net.side.bias is not None
    for weight, axis in ((net.side.weight, 0), (net.side.bias, 0), (net.head.weight, 1)):
        chosen = [64 + index for index in idle] if axis else idle
        weight.data.index_fill_(axis, torch.tensor(chosen), 0.0)
    expected = net.eval()(EXAMPLE)
    pruned = prune_to_ratio(net, EXAMPLE, PROTECTED, PruneConfig(round_to=8), 0.03)
    assert pruned.channels == {"side": [64, 56]}
    assert torch.allclose(pruned.net.eval()(EXAMPLE), expected, atol=1e-5)


def test_kept_channels_are_those_of_the_weights(net: Net) -> None:
    pruned = prune_to_ratio(net, EXAMPLE, {"head": "last"}, PruneConfig(round_to=4), 0.4)
    before, after = dict(net.named_modules()), dict(pruned.net.named_modules())
    assert pruned.kept.keys() == pruned.channels.keys()
    for name, kept in pruned.kept.items():
        old, new = before[name], after[name]
        assert isinstance(old, nn.Conv2d) and isinstance(new, nn.Conv2d) and len(kept) == new.out_channels
        if old.weight.shape[1] == new.weight.shape[1]:  # lost no inputs, or is depthwise
            assert torch.equal(old.weight[kept], new.weight)
    assert any(before[name].groups > 1 for name in pruned.kept if isinstance(before[name], nn.Conv2d))


def test_channels_kept_twice_are_those_of_the_first_network() -> None:
    first = {"a": [0, 2, 5], "b": [1, 3]}
    assert composed(first, {"a": [0, 2], "c": [4]}) == {"a": [0, 5], "b": [1, 3], "c": [4]}
    assert composed({}, first) == composed(first, {}) == first


def test_protected_modules_and_what_is_coupled_to_them_stay(net: Net) -> None:
    pruned = prune_to_ratio(net, EXAMPLE, PROTECTED | {"stem": "asked for"}, PruneConfig(allocation="uniform"), 0.5)
    assert layer(pruned.net, "stem.0", nn.Conv2d).out_channels == 64
    assert layer(pruned.net, "one.body.0", nn.Conv2d).out_channels == 64
    assert pruned.channels["side"] == [64, 32]
    assert pruned.protected["stem"] == "asked for"


def test_uniform_ratio_takes_the_same_share_everywhere(net: Net) -> None:
    pruned = prune_to_ratio(net, EXAMPLE, PROTECTED, PruneConfig(allocation="uniform"), 0.25)
    assert all(after == 0.75 * before for before, after in pruned.channels.values())
    assert pruned.ratio == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("given", "protected", "key"),
    [
        ({"importance": "magic"}, {}, "prune.importance"),
        ({"allocation": "fair"}, {}, "prune.allocation"),
        ({}, {"hed": "typo"}, "model.protected"),
        ({}, {"": "all of it"}, "prune"),
    ],
)
def test_mistakes_name_their_key(net: Net, given: dict[str, Any], protected: dict[str, str], key: str) -> None:
    with pytest.raises(UserError) as caught:
        prune_to_ratio(net, EXAMPLE, protected, PruneConfig(**given), 0.3)
    assert caught.value.key == key


def test_a_network_that_cannot_run_is_the_users_error(net: Net) -> None:
    with pytest.raises(UserError, match="traced"):
        prune_to_ratio(net, EXAMPLE[:, :1], PROTECTED, PruneConfig(), 0.3)


def test_grouped_convolutions_are_left_alone() -> None:
    packs = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 1, groups=4), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 2, 1)
    )
    pruned = prune_to_ratio(packs, EXAMPLE, {"3": "last"}, PruneConfig(), 0.5)
    assert pruned.channels == {"2": [32, 16]}
    assert pruned.net(EXAMPLE).shape == (1, 2, 32, 32)


class Slices(nn.Module):
    """Counts channels by itself, as GhostNet does: the middle layer's channels cannot leave."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle = self.middle(self.first(x))
        return self.last(middle.reshape(len(x), 32, *x.shape[2:]))


def test_channels_that_the_code_counts_on_stay_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    net = Slices().eval()
    example = torch.rand(1, 3, 8, 8)
    config = PruneConfig(importance="group_l2", round_to=8)
    pruned = prune_to_ratio(net, example, {"last": "the answer"}, config, 0.5)
    assert pruned.net(example).shape == (1, 8, 8, 8)
    assert pruned.channels["first"][1] < 32 and "middle" not in pruned.channels
    assert "forward pass fails" in pruned.protected["middle"] and "groups are not pruned" in caplog.text


class PartialSums(nn.Module):
    """Blocks that grow, each summed with its input where that has channels, as in ReXNet (arXiv:2007.00992)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *range(16, 52, 5)]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, 24, 1), nn.Conv2d(24, after, 1))
            for before, after in itertools.pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks[0](x)
        for block in list(self.blocks)[1:]:
            y, width = block(x), x.shape[1]
            x = torch.cat([y[:, :width] + x, y[:, width:]], dim=1)
        return self.head(x.mean((2, 3)))


def test_partial_sums_one_after_the_other_are_walked_to_an_end() -> None:
    """torch-pruning's own walk over them has none: this test would hang."""
    net = PartialSums()
    pruned = prune_to_flops(net, EXAMPLE, PROTECTED, PruneConfig(round_to=8), budget_macs=0.7 * count(net), count=count)
    assert 0.6 * count(net) < count(pruned.net) <= 0.7 * count(net)
    assert "blocks.1.1" in pruned.protected


class ChannelAttention(nn.Module):
    """A convolution that runs over the channels, as in ECA-Net (arXiv:1910.03151): all hang on its only one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Conv2d(3, 32, 1), nn.Conv1d(1, 1, 3, padding=1)
        self.middle, self.head = nn.Conv2d(32, 32, 1), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        gate = self.gate(x.mean((2, 3)).view(len(x), 1, -1)).sigmoid()
        return self.head(self.middle(x * gate.view(len(x), -1, 1, 1)).mean((2, 3)))


def test_channels_that_hang_on_one_stay() -> None:
    pruned = prune_to_ratio(ChannelAttention(), EXAMPLE, PROTECTED, PruneConfig(round_to=8), 0.5)
    assert pruned.channels == {"middle": [32, 16]}
    assert "cannot be pruned" in pruned.protected["first"]
