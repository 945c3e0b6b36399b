from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compress.config import PruneConfig
from compress.pruning.groups import find_groups, halves, tie
from compress.pruning.importance import importance
from compress.pruning.solver import prune_to_ratio
from tests.models.toy import layer

EXAMPLE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Halves(nn.Module):
    """Two layers side by side whose outputs are joined; `halves` asks for equal widths."""

    halves = ("one", "two")

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(inputs, 32, 1), nn.Conv2d(inputs, 32, 1)
        self.join = nn.Conv2d(64, 32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.join(torch.cat((self.one(x), self.two(x)), 1))


def network() -> nn.Module:
    torch.manual_seed(0)
    first = Halves(3)
    first.one.weight.data[:24].mul_(0.01)  # now a global ranking takes more of this half
    return nn.Sequential(first, Halves(32), nn.Conv2d(32, 4, 1))


def widths(net: nn.Module, name: str) -> tuple[int, int]:
    pair = layer(net, name, Halves)
    return pair.one.out_channels, pair.two.out_channels


def config(**given: Any) -> PruneConfig:
    return PruneConfig(round_to=4, **given)


def test_pairs_lose_equally_many_channels_when_asked_to() -> None:
    free = prune_to_ratio(network(), EXAMPLE, {"2": "last"}, config(), 0.4).net
    one, two = widths(free, "0")
    assert one < two
    even = prune_to_ratio(network(), EXAMPLE, {"2": "last"}, config(equal_split_widths=True), 0.4).net
    (one, two), others = widths(even, "0"), widths(even, "1")
    assert 0 < one == two < 32 and others[0] == others[1]
    assert even(EXAMPLE).shape == (1, 4, 8, 8)


def test_a_pair_of_a_protected_layer_stays_and_it_is_said() -> None:
    pruned = prune_to_ratio(network(), EXAMPLE, {"2": "last", "1.two": "asked"}, config(equal_split_widths=True), 0.4)
    assert widths(pruned.net, "1") == (32, 32)
    assert "as wide as" in pruned.protected["1.one"] and widths(pruned.net, "0")[0] < 32


def test_it_is_the_least_important_channels_of_each_that_go_together() -> None:
    net = network()
    groups, _ = find_groups(net, EXAMPLE, {"2": "last"}, importance("group_l2"))
    pairs = halves(net)
    assert pairs == (("0.one", "0.two"), ("1.one", "1.two"))
    tied, refused = tie(groups, pairs)
    assert not refused and len(tied) == len(groups) - 2
    by_name = {group.name: group for group in groups}
    bundle = next(group for group in tied if group.name == "0.one")
    assert torch.equal(bundle.scores, by_name["0.one"].scores.sort()[0] + by_name["0.two"].scores.sort()[0])
    for name in ("0.one", "0.two"):
        cut = next(cut for cut in bundle.cuts if cut.layer == name)
        assert cut.channels[0] == (int(by_name[name].scores.argmin()),)


def test_chains_of_pairs_become_one_group() -> None:
    net = network()
    groups, _ = find_groups(net, EXAMPLE, {"2": "last"}, importance("group_l2"))
    tied, _ = tie(groups, (("0.one", "0.two"), ("0.two", "1.one"), ("0.one", "1.one")))
    assert len(tied) == len(groups) - 2
    _, refused = tie(groups, (("0.one", "0.two"), ("0.two", "1.one"), ("1.one", "2")))
    assert refused.keys() == {"0.one", "0.two", "1.one"}
