from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.config import Objective, PruneConfig
from compress.errors import UserError
from compress.pruning.allocation import Step, order, steps_of
from compress.pruning.estimate import Estimate
from compress.pruning.groups import Group, find_groups
from compress.pruning.importance import importance

EXAMPLE = torch.rand(1, 3, 16, 16)


class Funnel(nn.Sequential):
    """An expensive early layer and a cheap late one, of the same width."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1), nn.AvgPool2d(8), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 4, 1)
        )


@pytest.fixture
def net() -> nn.Module:
    return Funnel().eval()


def groups_of(net: nn.Module, scores: dict[str, float]) -> tuple[Group, ...]:
    result, _ = find_groups(net, EXAMPLE, {"3": "the answer"}, importance("group_l2"))
    rising = torch.linspace(0, 1e-3, 16)  # which channel of a layer goes first
    return tuple(Group(group.name, scores[group.name] + rising, group.cuts) for group in result)


def names(steps: list[Step]) -> list[str]:
    return [step.group.name for step in steps]


def test_global_looks_at_importance_alone(net: nn.Module) -> None:
    steps = steps_of(groups_of(net, {"0": 2.0, "2": 1.0}), PruneConfig(round_to=4, max_ratio=0.5))
    assert names(order(steps, "global", Estimate(net, EXAMPLE))) == ["2", "2", "0", "0"]


def test_uniform_looks_at_shares_alone(net: nn.Module) -> None:
    steps = steps_of(groups_of(net, {"0": 2.0, "2": 1.0}), PruneConfig(round_to=4, max_ratio=0.5))
    taken = names(order(steps, "uniform", Estimate(net, EXAMPLE)))
    assert set(taken[:2]) == set(taken[2:]) == {"0", "2"}


def test_knapsack_weighs_importance_against_what_is_saved(net: nn.Module) -> None:
    steps = steps_of(groups_of(net, {"0": 2.0, "2": 1.0}), PruneConfig(round_to=4, max_ratio=0.5))
    cost = Estimate(net, EXAMPLE)
    before = cost.cost
    assert names(order(steps, "knapsack", cost)) == ["0", "0", "2", "2"]  # twice as important, many times as dear
    assert cost.cost == before


def test_knapsack_saves_time_where_it_is_told_the_time(net: nn.Module) -> None:
    steps = steps_of(groups_of(net, {"0": 2.0, "2": 1.0}), PruneConfig(round_to=4, max_ratio=0.5))
    slow_end = {"0": 0.001, "2": 0.001, "3": 1.0}  # the last layer reads the channels of the one before
    assert names(order(steps, "knapsack", Estimate(net, EXAMPLE, slow_end))) == ["2", "2", "0", "0"]


def test_knapsack_follows_what_others_have_lost(net: nn.Module) -> None:
    """Each channel of a chain saves less once its neighbours are gone, so the order is that of every moment."""
    chain = nn.Sequential(*(nn.Conv2d(width, 64, 3, padding=1) for width in (3, 64, 64)), nn.Conv2d(64, 2, 1)).eval()
    result, _ = find_groups(chain, EXAMPLE, {"3": "the answer"}, importance("group_l2"))
    steps, cost = steps_of(result, PruneConfig(round_to=8)), Estimate(chain, EXAMPLE)
    taken = order(steps, "knapsack", cost)
    assert sorted(map(id, taken)) == sorted(map(id, steps))
    waiting = {group: [step for step in steps if step.group is group] for group in result}
    for step in taken:  # the slow way: every next step of every group, estimated again
        ratios = {
            group: left[0].importance * len(left[0].channels) / cost.saved(group.cuts, left[0].channels)
            for group, left in waiting.items()
            if left
        }
        assert ratios[step.group] == pytest.approx(min(ratios.values()))
        waiting[step.group].pop(0)
        cost.change(step.group.cuts, step.channels, -1)


def test_time_is_for_the_knapsack_only() -> None:
    PruneConfig(allocation="knapsack", objective=Objective.latency)
    with pytest.raises(UserError, match="knapsack") as caught:
        PruneConfig(allocation="global", objective=Objective.latency)
    assert caught.value.key == "prune.objective"
