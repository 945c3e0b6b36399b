"""Searches the steps to take: the fewest that meet a limit in MACs, or in milliseconds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from compress.pruning.allocation import Step
from compress.pruning.estimate import Estimate
from compress.units import format_flops

UNDO_TOLERANCE = 0.005  # steps are undone only if a larger fraction of the budget is unused
SEARCH_TOLERANCE = 0.01  # the search is repeated only if a larger fraction of the budget is unused
MAX_TRIALS = 5  # limit on searches, and on attempts to undo a step within each search
LATENCY_TOLERANCE = 0.01  # unused fraction of a latency limit at which its search ends
LATENCY_TRIALS = 8  # limit on the networks whose latency is predicted

MacsAfter = Callable[[Sequence[Step]], int]  # exact MACs after these steps
MsAfter = Callable[[Sequence[Step]], float]  # latency after these steps

log = logging.getLogger(__name__)


def within_latency(
    steps: list[Step],
    macs_of: MacsAfter,
    ms_of: MsAfter,
    limit: float,
    full: tuple[int, float],
    least: tuple[int, float],
    estimate: Callable[[], Estimate],
) -> tuple[list[Step], int]:
    """Returns the steps to take, and the MACs after them: the most MACs whose latency is at most `limit` ms. Each trial
    is a limit on the MACs, interpolated between the nearest networks above and below `limit`.

    Args:
        full: MACs and ms without any step; above `limit`.
        least: MACs and ms after all steps; not above `limit`.
    """
    above, below, best = full, least, (steps, least[0])
    for _ in range(LATENCY_TRIALS):
        if below[1] >= (1 - LATENCY_TOLERANCE) * limit or above[0] - below[0] <= SEARCH_TOLERANCE * below[0]:
            break
        fraction = ((1 - LATENCY_TOLERANCE / 2) * limit - below[1]) / (above[1] - below[1])
        budget = below[0] + min(max(fraction, 0.05), 0.95) * (above[0] - below[0])
        taken, macs = within_macs(steps, macs_of, budget, full[0], least[0], estimate)
        ms = ms_of(taken)
        log.info("%s FLOPs: %.4g ms by prediction", format_flops(2 * macs), ms)
        if ms > limit:
            above = round(budget), ms
        elif macs <= best[1]:  # the steps are too coarse for more
            break
        else:
            below, best = (macs, ms), (taken, macs)
    return best


def within_macs(
    steps: list[Step], macs_of: MacsAfter, budget: float, full: int, least: int, estimate: Callable[[], Estimate]
) -> tuple[list[Step], int]:
    """Returns the steps to take, and the MACs after them: the shortest prefix that meets the budget, minus the steps
    that `_fill_gap` undoes. If more than `SEARCH_TOLERANCE` stays unused, searches again without the last step of the
    prefix, which is too coarse, and later steps of its group. The result with the most MACs counts."""
    candidates, best = steps, (steps, least)
    for _ in range(MAX_TRIALS):
        cost = estimate()
        prefix, macs = _shortest_prefix(candidates, macs_of, budget, full, least, cost)
        taken, macs = _fill_gap(prefix, macs_of, budget, macs, cost)
        best = (taken, macs) if macs >= best[1] else best
        if not prefix or budget - best[1] <= SEARCH_TOLERANCE * budget:
            break
        candidates = prefix[:-1] + [step for step in candidates[len(prefix) :] if step.group is not prefix[-1].group]
        least = macs_of(candidates)
        if least > budget:
            break
    return best


def _shortest_prefix(
    steps: list[Step], macs_of: MacsAfter, budget: float, full: int, least: int, estimate: Estimate
) -> tuple[list[Step], int]:
    """Returns the fewest steps that meet the budget and the MACs after them. On return, `estimate` describes the
    network after these steps."""
    if full <= budget:
        return [], full
    estimates = [estimate.cost]  # after the first 0, 1, … steps
    for step in steps:
        estimate.change(step.group.cuts, step.channels, -1)
        estimates.append(estimate.cost)
    low, high = 0, len(steps)  # `low` steps exceed the budget, `high` steps meet it
    macs_at_low, macs_at_high = full, least
    while high - low > 1:
        # Regula falsi: between `low` and `high`, exact counts are nearly linear in the estimate.
        slope = (estimates[low] - estimates[high]) / max(macs_at_low - macs_at_high, 1)
        target = estimates[high] + slope * (budget - macs_at_high)
        between = range(low + 1, high)
        middle = next((index for index in between if estimates[index] <= target), high - 1)
        counted = macs_of(steps[:middle])
        if counted <= budget:
            high, macs_at_high = middle, counted
        else:
            low, macs_at_low = middle, counted
    for step in steps[high:]:
        estimate.change(step.group.cuts, step.channels, +1)
    return steps[:high], macs_at_high


def _fill_gap(
    taken: list[Step], macs_of: MacsAfter, budget: float, macs: int, estimate: Estimate
) -> tuple[list[Step], int]:
    """Undoes steps to use the remaining budget: each time, of the last steps of all groups, the one that restores most
    MACs within it. Stops at `UNDO_TOLERANCE` or if none fits. Returns the remaining steps and the MACs after them."""
    # Indices of steps that cannot be undone: the exact count exceeds the budget or stays the same.
    rejected: set[int] = set()
    for _ in range(MAX_TRIALS):
        if budget - macs <= UNDO_TOLERANCE * budget:
            break
        last = {step.group: index for index, step in enumerate(taken)}  # steps of a group are undone in reverse order
        restored = {
            index: -estimate.saved(taken[index].group.cuts, taken[index].channels, sign=+1)
            for index in last.values()
            if index not in rejected
        }
        fitting = {index: added for index, added in restored.items() if 0 < added <= budget - macs}
        if not fitting:
            break
        index = max(fitting, key=lambda i: (fitting[i], i))
        without = taken[:index] + taken[index + 1 :]
        counted = macs_of(without)
        if macs < counted <= budget:
            estimate.change(taken[index].group.cuts, taken[index].channels, +1)
            taken, macs, rejected = without, counted, set()
        else:
            rejected.add(index)
    return taken, macs
