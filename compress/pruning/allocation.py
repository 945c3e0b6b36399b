"""Allocation of a budget to layers: the order in which channels are removed from the groups of a network.

Within a group the least important channels go first; the allocation ranks the steps of different groups. The order
does not depend on the budget: every pruned network is a prefix of it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compress.config import PruneConfig
from compress.pruning.estimate import Estimate
from compress.pruning.groups import Group


@dataclass(frozen=True)
class Step:
    """Channels of one group that are removed together, at most `round_to`."""

    group: Group
    channels: tuple[int, ...]
    fraction: float  # of the group removed halfway through the step, so that a ratio is met by the nearest step

    @property
    def importance(self) -> float:
        """Mean score of the channels."""
        return float(self.group.scores[list(self.channels)].mean())


def steps_of(groups: Sequence[Group], config: PruneConfig, widths: Mapping[str, int] | None = None) -> list[Step]:
    """All steps that `config` allows, group by group, least important channels first.

    Args:
        widths: {name of a group: channels before the first round}, which `config.max_ratio` refers to. Groups that are
            not listed count from their current channels.
    """
    steps = []
    for group in groups:
        order = group.scores.argsort(stable=True).tolist()
        original = (widths or {}).get(group.name, group.channels)
        minimum = max(config.round_to, math.ceil(round((1 - config.max_ratio) * original, 6)))
        # The first step removes the remainder, so that all later widths are multiples of `round_to`.
        removed, size = 0, group.channels % config.round_to or config.round_to
        while group.channels - removed - size >= minimum:
            channels = tuple(order[removed : removed + size])
            steps.append(Step(group, channels, (removed + size / 2) / group.channels))
            removed, size = removed + size, config.round_to
    return steps


def _knapsack(steps: Sequence[Step], cost: Estimate) -> list[Step]:
    """Lowest importance per unit of saved cost first, both in the state of the network at that step: a greedy knapsack
    (Shen et al. 2022, "Structural Pruning via Latency-Saliency Knapsack", arXiv:2210.06659, for latency)."""

    def ratio(step: Step) -> float:
        saved = cost.saved(step.group.cuts, step.channels)
        return step.importance * len(step.channels) / saved if saved > 0 else math.inf

    remaining: dict[Group, list[Step]] = {}
    for step in reversed(steps):
        remaining.setdefault(step.group, []).append(step)  # the next step is last
    heap = sorted((ratio(stack[-1]), index, stack) for index, stack in enumerate(remaining.values()))
    order = []
    while heap:
        _, index, stack = heapq.heappop(heap)
        # Ratios in the heap may be out of date. Steps of other groups can only raise them, because they reduce what a
        # step saves: a step that is still first with its current ratio is the best.
        if not heap or ratio(stack[-1]) <= heap[0][0]:
            step = stack.pop()
            cost.change(step.group.cuts, step.channels, -1)
            order.append(step)
        if stack:
            heapq.heappush(heap, (ratio(stack[-1]), index, stack))
    for step in order:
        cost.change(step.group.cuts, step.channels, +1)
    return order


ALLOCATIONS: dict[str, Callable[[Sequence[Step], Estimate], list[Step]]] = {
    # The same fraction of channels from every group. The sort is stable: ties stay in network order.
    "uniform": lambda steps, cost: sorted(steps, key=lambda step: step.fraction),
    # One ranking of all channels of the network, regardless of their cost.
    "global": lambda steps, cost: sorted(steps, key=lambda step: step.importance),
    "knapsack": _knapsack,
}


def order(steps: Sequence[Step], allocation: str, cost: Estimate) -> list[Step]:
    """The steps in the order of removal by an allocation, a key of ALLOCATIONS.

    `cost`: estimate of the whole network, in the unit that `knapsack` saves; unchanged on return.
    """
    return ALLOCATIONS[allocation](steps, cost)
