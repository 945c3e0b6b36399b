"""From a network, a budget and an importance to a narrower network.

Every group of coupled channels is cut into steps of `round_to` channels, least important first, and an allocation
brings all steps of all groups into one order. A pruned network is a prefix of that order, so a budget is met by search
over the prefix length: an estimate proposes, an exact count decides.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.config import PruneConfig
from compress.errors import UserError
from compress.pruning.allocation import ALLOCATIONS, Step, order, steps_of
from compress.pruning.estimate import Estimate
from compress.pruning.groups import Group, cut, find_groups, halves, tie
from compress.pruning.importance import importance

CLOSE_ENOUGH = 0.005  # of the budget; below this gap nothing is given back
NEAR = 0.01  # of the budget: what a solution may leave unused before others are looked for
MOST_TRIALS = 5  # of candidates when giving back, and of orders

Count = Callable[[Sequence[Step]], int]  # exact MACs once these steps are taken

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pruned:
    """A narrower network and how it came about."""

    net: nn.Module
    ratio: float  # share of the prunable channels that was taken
    channels: dict[str, list[int]]  # {layer: [output channels before, after]}, changed layers only; see `changes`
    protected: dict[str, str]  # {module: why it kept its channels}
    narrowest: nn.Module  # with everything prunable gone: what stands in the way of smaller budgets
    macs: int | None = None  # of the deployed form; None where nothing was counted
    reachable: tuple[int, int] | None = None  # MACs with everything prunable gone, and with nothing gone


def prune_to_ratio(
    net: nn.Module,
    example: Tensor,
    protected: Mapping[str, str],
    config: PruneConfig,
    ratio: float,
    seconds: Mapping[str, float] | None = None,
    widths: Mapping[str, int] | None = None,
) -> Pruned:
    """Take the share `ratio` of the prunable channels, as near as rounding and `max_ratio` allow.

    Args:
        net: a network whose coupled channels a dependency graph can follow (`Model.prunable`); not changed.
        example: (b, c, s, s) input.
        protected: {module name: why} of modules that keep their output channels.
        seconds: {layer: what it takes}; with them `knapsack` saves time, without them MACs.
        widths: {layer: output channels} before any pruning, from which `max_ratio` counts; those of `net` if None.

    Raises:
        UserError: unknown importance or allocation, unknown protected module, network that cannot be traced.
    """
    plan = _plan(net, example, protected, config, widths)
    steps = order(plan.steps, config.allocation, Estimate(net, example, seconds))
    total = sum(group.channels for group in plan.groups)
    if config.allocation == "uniform":  # every group gets its own nearest
        taken = [step for step in steps if step.share <= ratio]
    else:
        taken, left = [], ratio * total
        for step in steps:
            if left < len(step.channels) / 2:
                break
            taken.append(step)
            left -= len(step.channels)
    share = _share(taken, total)
    if abs(share - ratio) > 0.05:
        log.warning("prune.ratio=%g: %.3g of the channels went, as near as rounding and limits allow", ratio, share)
    pruned = _cut(net, taken)
    return Pruned(pruned, share, changes(widths_of(net), pruned), plan.protected, _cut(net, steps))


def reachable(
    net: nn.Module,
    example: Tensor,
    protected: Mapping[str, str],
    config: PruneConfig,
    count: Callable[[nn.Module], int],
) -> tuple[int, int]:
    """MACs of the deployed form with everything prunable gone, and with nothing gone. Arguments and errors as in
    `prune_to_flops`."""
    steps = _plan(net, example, protected, config).steps
    return count(_cut(net, steps)), count(net)


def check_reachable(budget_macs: float, least: int, full: int) -> None:
    """Raises UserError, with the range, for a budget outside of it."""
    if least <= budget_macs <= full:
        return
    lower = "lower prune.round_to, raise prune.max_ratio, or raise the budget"
    remedy = lower if budget_macs < least else "the model already costs less"
    raise UserError(
        "budget.flops",
        f"{2 * budget_macs:.4g}",
        f"pruning reaches {2 * least / 1e9:.4g} G to {2 * full / 1e9:.4g} G FLOPs ({least / full:.1%} to 100%): "
        + remedy,
    )


def prune_to_flops(
    net: nn.Module,
    example: Tensor,
    protected: Mapping[str, str],
    config: PruneConfig,
    *,
    budget_macs: float,
    count: Callable[[nn.Module], int],
    seconds: Mapping[str, float] | None = None,
    widths: Mapping[str, int] | None = None,
) -> Pruned:
    """The widest network of the order whose `count` is at or under `budget_macs`.

    Args:
        budget_macs: multiply-adds that the deployed form may have.
        count: MACs of the deployed form of a network of this kind.
        Others as in `prune_to_ratio`.

    Raises:
        UserError: a budget below what can be reached, with the range; and as `prune_to_ratio`.
    """
    plan = _plan(net, example, protected, config, widths)
    steps = order(plan.steps, config.allocation, Estimate(net, example, seconds))

    def macs_of(taken: Sequence[Step]) -> int:
        return count(_cut(net, taken))

    narrowest = _cut(net, steps)
    full, least = macs_of([]), count(narrowest)
    check_reachable(budget_macs, least, full)
    taken, macs = _fit(steps, macs_of, budget_macs, full, least, lambda: Estimate(net, example))
    pruned = _cut(net, taken)
    share = _share(taken, sum(group.channels for group in plan.groups))
    return Pruned(pruned, share, changes(widths_of(net), pruned), plan.protected, narrowest, macs, (least, full))


@dataclass(frozen=True)
class Plan:
    """All that can be taken, group by group, and what cannot and why."""

    groups: tuple[Group, ...]
    steps: list[Step]
    protected: dict[str, str]


def _plan(
    net: nn.Module,
    example: Tensor,
    protected: Mapping[str, str],
    config: PruneConfig,
    widths: Mapping[str, int] | None = None,
) -> Plan:
    groups, uncuttable = _groups(net, example, protected, config)
    protected = {**protected, **uncuttable}
    steps = steps_of(groups, config, widths)
    if _failure(net, example, steps) is None:
        return Plan(groups, steps, protected)
    # Some code counts channels by itself (slices, reshapes, attention over the channel axis) and breaks without some of
    # them. Halves of the groups are tried, beside those that worked, down to the single ones that break it.
    refused: dict[str, str] = {}
    kept: set[Group] = set()

    def try_out(candidates: Sequence[Group]) -> None:
        asked = kept.union(candidates)
        why = _failure(net, example, [step for step in steps if step.group in asked])
        if why is None:
            kept.update(candidates)
        elif len(candidates) == 1:
            refused[candidates[0].name] = f"the network's own code fails without some of these channels ({why})"
        else:
            middle = len(candidates) // 2
            try_out(candidates[:middle])
            try_out(candidates[middle:])

    try_out(groups)
    log.warning("%d of %d groups keep their channels: the network fails without them", len(refused), len(groups))
    if not kept:
        raise UserError("prune", type(net).__name__, f"no channels can be pruned: {next(iter(refused.values()))}")
    chosen = tuple(group for group in groups if group in kept)
    return Plan(chosen, [step for step in steps if step.group in kept], {**protected, **refused})


def _failure(net: nn.Module, example: Tensor, taken: Sequence[Step]) -> str | None:
    """What happens when the network runs without these channels; None where it does run."""
    try:
        with torch.no_grad():
            _cut(net, taken).eval()(example)
    except Exception as error:  # whatever the network's own code raises
        return " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return None


def _groups(
    net: nn.Module, example: Tensor, protected: Mapping[str, str], config: PruneConfig
) -> tuple[tuple[Group, ...], dict[str, str]]:
    if config.allocation not in ALLOCATIONS:
        raise UserError("prune.allocation", config.allocation, f"choose one of {', '.join(ALLOCATIONS)}")
    groups, refused = find_groups(net, example, protected, importance(config.importance))
    if config.equal_split_widths:
        groups, unpaired = tie(groups, halves(net))
        refused = refused | unpaired
    if not groups:
        raise UserError(
            "prune", type(net).__name__, "no channels can be pruned: everything is protected or coupled to it"
        )
    return groups, refused


def _fit(
    steps: Sequence[Step], macs_of: Count, budget: float, full: int, least: int, estimate: Callable[[], Estimate]
) -> tuple[list[Step], int]:
    """The steps to take, and what they leave: the shortest prefix within the budget, less what can be given back. Where
    that ends far below the budget, a single step has gone too far: others are tried in the place of its group's."""
    best: tuple[list[Step], int] = (list(steps), least)
    left = list(steps)
    for _ in range(MOST_TRIALS):
        at_each = estimate()
        prefix, macs = _shortest_prefix(left, macs_of, budget, full, least, at_each)
        taken, macs = _give_back(prefix, macs_of, budget, macs, at_each)
        if macs >= best[1]:
            best = (taken, macs)
        if not prefix or budget - best[1] <= NEAR * budget:
            break
        last = len(prefix) - 1
        left = left[:last] + [step for step in left[last:] if step.group is not prefix[last].group]
        least = macs_of(left)
        if least > budget:
            break
    return best


def _shortest_prefix(
    steps: Sequence[Step], macs_of: Count, budget: float, full: int, least: int, estimate: Estimate
) -> tuple[list[Step], int]:
    """The fewest steps at or under the budget. Leaves `estimate` where they are taken."""
    if full <= budget:
        return [], full
    guesses = [estimate.cost]
    for step in steps:
        estimate.change(step.group.cuts, step.channels, -1)
        guesses.append(estimate.cost)
    low, high = 0, len(steps)  # `low` steps are over the budget, `high` steps are not
    over, macs = full, least
    while high - low > 1:
        # Between the two, exact counts follow the estimate nearly on a straight line: aim where it meets the budget.
        slope = (guesses[low] - guesses[high]) / max(over - macs, 1)
        aim = guesses[high] + slope * (budget - macs)
        middle = next(index for index in range(low + 1, high + 1) if guesses[index] <= aim or index == high)
        middle = min(max(middle if middle < high else high - 1, low + 1), high - 1)
        found = macs_of(steps[:middle])
        if found <= budget:
            high, macs = middle, found
        else:
            low, over = middle, found
    for step in steps[high:]:
        estimate.change(step.group.cuts, step.channels, +1)
    return list(steps[:high]), macs


def _give_back(
    taken: list[Step], macs_of: Count, budget: float, macs: int, estimate: Estimate
) -> tuple[list[Step], int]:
    """Undo last steps of groups while the budget allows it: always the one that fills most of the gap."""
    refused: set[int] = set()  # steps known to be too large for the gap
    for _ in range(MOST_TRIALS):
        if budget - macs <= CLOSE_ENOUGH * budget:
            break
        last = {step.group: index for index, step in enumerate(taken)}  # steps of a group come back in reverse order
        gains = {index: _gain(taken[index], estimate) for index in last.values() if index not in refused}
        fitting = {index: gain for index, gain in gains.items() if 0 < gain <= budget - macs}
        if not fitting:
            break
        index = max(fitting, key=lambda each: (fitting[each], each))
        without = taken[:index] + taken[index + 1 :]
        found = macs_of(without)
        if macs < found <= budget:
            estimate.change(taken[index].group.cuts, taken[index].channels, +1)
            taken, macs, refused = without, found, set()
        else:
            refused.add(index)
    return taken, macs


def _gain(step: Step, estimate: Estimate) -> float:
    estimate.change(step.group.cuts, step.channels, +1)
    gain = estimate.saved(step.group.cuts, step.channels)
    estimate.change(step.group.cuts, step.channels, -1)
    return gain


def _cut(net: nn.Module, taken: Sequence[Step]) -> nn.Module:
    chosen: dict[Group, list[int]] = defaultdict(list)
    for step in taken:
        chosen[step.group].extend(step.channels)
    return cut(net, chosen)


def _share(taken: Sequence[Step], total: int) -> float:
    return sum(len(step.channels) for step in taken) / total


def widths_of(net: nn.Module) -> dict[str, int]:
    """{layer: output channels} of the layers that have some."""
    found = {}
    for name, layer in net.named_modules():
        width = getattr(layer, "out_channels", getattr(layer, "out_features", None))
        if isinstance(width, int):
            found[name] = width
    return found


def changes(before: Mapping[str, int], after: nn.Module) -> dict[str, list[int]]:
    """{layer: [output channels before, after]} of the layers whose width is another now."""
    widths = widths_of(after)
    return {name: [width, widths[name]] for name, width in before.items() if widths[name] != width}
