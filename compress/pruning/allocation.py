"""How a budget is shared out over the layers: in which order steps of channels leave the groups.

Within a group the least important channels go first; the allocation decides between groups. Its order has no end in
mind: a pruned network is a prefix of it, as long as the budget asks.
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
    """The next `round_to` channels that leave a group."""

    group: Group
    channels: tuple[int, ...]
    share: float  # of the group's channels gone when half of the step is taken: a ratio takes the nearest step

    @property
    def importance(self) -> float:
        """Mean over its channels."""
        return float(self.group.scores[list(self.channels)].mean())


def steps_of(groups: Sequence[Group], config: PruneConfig, widths: Mapping[str, int] | None = None) -> list[Step]:
    """All that may leave, group by group, least important channels first; `max_ratio` counts from `widths` where the
    layer that leads a group is named there, as earlier rounds have found it."""
    steps = []
    for group in groups:
        order = group.scores.argsort(stable=True).tolist()
        whole = (widths or {}).get(group.name, group.channels)
        floor = max(config.round_to, math.ceil(round((1 - config.max_ratio) * whole, 6)))
        taken, size = 0, group.channels % config.round_to or config.round_to  # a first odd step, then whole ones
        while group.channels - taken - size >= floor:
            channels = tuple(order[taken : taken + size])
            steps.append(Step(group, channels, (taken + size / 2) / group.channels))
            taken, size = taken + size, config.round_to
    return steps


def _uniform(steps: Sequence[Step], cost: Estimate) -> list[Step]:
    """The same share of channels from every group."""
    return sorted(steps, key=lambda step: step.share)  # stable: equal shares stay in network order


def _global(steps: Sequence[Step], cost: Estimate) -> list[Step]:
    """One ranking of all channels in the network, whatever each of them costs."""
    return sorted(steps, key=lambda step: step.importance)


def _knapsack(steps: Sequence[Step], cost: Estimate) -> list[Step]:
    """Least importance lost a unit of cost saved, both as things are when a step is taken (greedy knapsack; Shen et
    al. 2022, "Structural Pruning via Latency-Saliency Knapsack", arXiv:2210.06659, spends latency this way)."""

    def ratio(step: Step) -> float:
        saved = cost.saved(step.group.cuts, step.channels)
        return step.importance * len(step.channels) / saved if saved > 0 else math.inf

    waiting: dict[Group, list[Step]] = {}
    for step in reversed(steps):
        waiting.setdefault(step.group, []).append(step)  # the next one last
    heap = [(ratio(left[-1]), index, group) for index, (group, left) in enumerate(waiting.items())]
    heapq.heapify(heap)
    order = []
    while heap:
        _, index, group = heapq.heappop(heap)
        left = waiting[group]
        # What others lost since makes a step save less, never more: one that is still first is the best.
        now = ratio(left[-1])
        if heap and now > heap[0][0]:
            heapq.heappush(heap, (now, index, group))
            continue
        step = left.pop()
        cost.change(step.group.cuts, step.channels, -1)
        order.append(step)
        if left:
            heapq.heappush(heap, (ratio(left[-1]), index, group))
    for step in order:
        cost.change(step.group.cuts, step.channels, +1)
    return order


ALLOCATIONS: dict[str, Callable[[Sequence[Step], Estimate], list[Step]]] = {
    "uniform": _uniform,
    "global": _global,
    "knapsack": _knapsack,
}


def order(steps: Sequence[Step], allocation: str, cost: Estimate) -> list[Step]:
    """The steps in the order in which they are taken.

    Args:
        allocation: a name in ALLOCATIONS.
        cost: of the whole network, in what the allocation is to save; left as it was.
    """
    return ALLOCATIONS[allocation](steps, cost)
