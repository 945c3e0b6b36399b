"""Solver: prunes a network to a FLOPs budget or to a ratio of its channels. See README.md for the method.

A step removes channels, at most `round_to`, from one group of coupled layers (`allocation.Step`, `groups.Group`). MACs
are those of the deployed form (`Model.deployed`); 1 MAC = 2 FLOPs."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compress.config import PruneConfig
from compress.errors import UserError
from compress.pruning.allocation import ALLOCATIONS, Step, order, steps_of
from compress.pruning.estimate import Estimate
from compress.pruning.groups import Group, cut, find_groups, halves, tie
from compress.pruning.importance import importance

UNDO_TOLERANCE = 0.005  # steps are undone only if a larger fraction of the budget is unused
SEARCH_TOLERANCE = 0.01  # the search is repeated only if a larger fraction of the budget is unused
MAX_TRIALS = 5  # limit on searches, and on attempts to undo a step within each search
RATIO_TOLERANCE = 0.05  # a larger difference from the ratio is logged as a warning

Count = Callable[[nn.Module], int]  # exact MACs of the deployed form of a network
MacsAfter = Callable[[Sequence[Step]], int]  # exact MACs after these steps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pruned:
    """A pruned network and what was removed from it."""

    net: nn.Module
    ratio: float  # fraction of the prunable channels that was removed
    channels: dict[str, list[int]]  # {layer: [output channels before, after]}, changed layers only; see `changes`
    kept: dict[str, list[int]]  # {layer: output channels of the given network that it keeps}, changed layers only
    protected: dict[str, str]  # {module: reason why it keeps its channels}
    narrowest: nn.Module  # the network after all steps; its MACs are the lowest reachable ones
    macs: int | None = None  # None if pruned to a ratio
    reachable: tuple[int, int] | None = None  # MACs of `narrowest` and of the unpruned network


def prune_to_ratio(
    net: nn.Module,
    example: Tensor,
    protected: Mapping[str, str],
    config: PruneConfig,
    ratio: float,
    seconds: Mapping[str, float] | None = None,
    widths: Mapping[str, int] | None = None,
) -> Pruned:
    """Removes the fraction `ratio` of the prunable channels, as closely as whole steps and `max_ratio` allow.

    Args:
        net: a network whose dependency graph can be traced (`Prunable.prunable`); not changed.
        example: (b, c, s, s) input.
        protected: {module name: reason} of modules that keep their output channels.
        seconds: {layer: seconds of one forward pass of `example`}, the cost that the allocation `knapsack` saves; None:
            it saves MACs. Other allocations ignore it.
        widths: {layer: output channels} before any pruning, which `max_ratio` refers to; None: those of `net`.

    Raises:
        UserError: unknown importance, allocation or protected module, or the network cannot be traced or pruned.
    """
    plan = _plan(net, example, protected, config, widths)
    steps = order(plan.steps, config.allocation, Estimate(net, example, seconds))
    if config.allocation == "uniform":  # `fraction` is the lowest ratio at which the step is taken
        taken = [step for step in steps if step.fraction <= ratio]
    else:
        taken, to_remove = [], ratio * plan.channels
        for step in steps:
            if to_remove < len(step.channels) / 2:
                break
            taken.append(step)
            to_remove -= len(step.channels)
    result = _pruned(net, plan, taken, _cut(net, steps))
    if abs(result.ratio - ratio) > RATIO_TOLERANCE:
        message = "prune.ratio=%g: removed %.3g of the prunable channels; lower prune.round_to or raise prune.max_ratio"
        log.warning(message, ratio, result.ratio)
    return result


def reachable(
    net: nn.Module, example: Tensor, protected: Mapping[str, str], config: PruneConfig, count: Count
) -> tuple[int, int]:
    """Returns the MACs after all steps, and of the unpruned network. Arguments as in `prune_to_flops`, errors as in
    `prune_to_ratio`."""
    steps = _plan(net, example, protected, config, None).steps
    return count(_cut(net, steps)), count(net)


def check_reachable(budget_macs: float, least: int, full: int) -> None:
    """Raises UserError, which names the range, if `budget_macs` is not between `least` and `full` MACs."""
    if least <= budget_macs <= full:
        return
    too_low = "lower prune.round_to, raise prune.max_ratio, or raise the budget"
    too_high = "the model already costs less: lower the budget, or remove prune from stages"
    remedy = too_low if budget_macs < least else too_high
    limits = f"{2 * least / 1e9:.4g} G to {2 * full / 1e9:.4g} G FLOPs ({least / full:.1%} to 100%)"
    raise UserError("budget.flops", f"{2 * budget_macs:.4g}", f"pruning can reach {limits}: {remedy}")


def prune_to_flops(
    net: nn.Module,
    example: Tensor,
    protected: Mapping[str, str],
    config: PruneConfig,
    *,
    budget_macs: float,
    count: Count,
    seconds: Mapping[str, float] | None = None,
    widths: Mapping[str, int] | None = None,
) -> Pruned:
    """Prunes to at most `budget_macs`, half the limit in FLOPs: takes the shortest prefix of the ordered steps that
    meets the budget, then undoes single steps as long as the budget is still met.

    `count` returns the exact MACs of one image in the deployed form of a network. Other arguments and errors as in
    `prune_to_ratio`, and UserError, which names the range, if the budget is out of reach."""
    plan = _plan(net, example, protected, config, widths)
    steps = order(plan.steps, config.allocation, Estimate(net, example, seconds))
    narrowest = _cut(net, steps)
    full, least = count(net), count(narrowest)
    check_reachable(budget_macs, least, full)
    # Each trial modifies its estimate, so `_search` makes a new one per trial, in MACs even if `order` used seconds.
    macs_of, estimate = lambda taken: count(_cut(net, taken)), lambda: Estimate(net, example)
    taken, macs = _search(steps, macs_of, budget_macs, full, least, estimate)
    return replace(_pruned(net, plan, taken, narrowest), macs=macs, reachable=(least, full))


def _pruned(net: nn.Module, plan: _Plan, taken: Sequence[Step], narrowest: nn.Module) -> Pruned:
    pruned, removed = _cut(net, taken), sum(len(step.channels) for step in taken) / plan.channels
    return Pruned(pruned, removed, changes(widths_of(net), pruned), _kept(net, taken), plan.protected, narrowest)


def _kept(net: nn.Module, taken: Sequence[Step]) -> dict[str, list[int]]:
    removed: dict[str, set[int]] = defaultdict(set)
    for step in taken:
        for part in step.group.cuts:
            if part.cuts_outputs:
                removed[part.layer].update(index for channel in step.channels for index in part.channels[channel])
    widths = widths_of(net)
    return {
        layer: [index for index in range(widths[layer]) if index not in indices]
        for layer, indices in removed.items()
        if layer in widths
    }


@dataclass(frozen=True)
class _Plan:
    steps: list[Step]  # that can be taken, group by group
    channels: int  # of all groups
    protected: dict[str, str]  # {module: reason} of the modules that cannot be pruned


def _plan(
    net: nn.Module, example: Tensor, protected: Mapping[str, str], config: PruneConfig, widths: Mapping[str, int] | None
) -> _Plan:
    """Finds the groups that can be pruned without an error in the forward pass, and their steps. Raises UserError."""
    if config.allocation not in ALLOCATIONS:
        raise UserError("prune.allocation", config.allocation, f"choose one of {', '.join(ALLOCATIONS)}")
    groups, without_group = find_groups(net, example, protected, importance(config.importance))
    protected = {**protected, **without_group}
    if config.equal_split_widths:  # the groups of both outputs of a split are pruned together
        groups, unpaired = tie(groups, halves(net))
        protected |= unpaired
    if not groups:
        raise UserError("prune", type(net).__name__, "all channels are protected or coupled to protected ones")
    steps = steps_of(groups, config, widths)
    if _failure(net, example, steps) is None:
        return _Plan(steps, sum(group.channels for group in groups), protected)
    # Code that assumes fixed numbers of channels (slices, reshapes, attention over channels) fails after pruning.
    # Bisection finds the groups that it depends on: each half is tried together with the groups known to work.
    failing: dict[str, str] = {}
    prunable: set[Group] = set()

    def bisect(candidates: Sequence[Group]) -> None:
        tried = prunable.union(candidates)
        failure = _failure(net, example, [step for step in steps if step.group in tried])
        if failure is None:
            prunable.update(candidates)
        elif len(candidates) == 1:
            failing[candidates[0].name] = f"the forward pass fails if its channels are removed ({failure})"
        else:
            middle = len(candidates) // 2
            bisect(candidates[:middle])
            bisect(candidates[middle:])

    bisect(groups)
    log.warning("%d of %d channel groups are not pruned: the forward pass would fail", len(failing), len(groups))
    if not prunable:
        name, reason = next(iter(failing.items()))
        raise UserError("prune", type(net).__name__, f"no channels can be pruned; {name}: {reason}")
    steps = [step for step in steps if step.group in prunable]
    return _Plan(steps, sum(group.channels for group in prunable), protected | failing)


def _failure(net: nn.Module, example: Tensor, taken: Sequence[Step]) -> str | None:
    """The error that the network raises without these channels; None if it runs."""
    try:
        with torch.no_grad():
            _cut(net, taken).eval()(example)
    except Exception as error:  # anything that the network's own code raises
        return " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return None


def _search(
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


def _cut(net: nn.Module, taken: Sequence[Step]) -> nn.Module:
    chosen: dict[Group, list[int]] = defaultdict(list)
    for step in taken:
        chosen[step.group].extend(step.channels)
    return cut(net, chosen)


def widths_of(net: nn.Module) -> dict[str, int]:
    """{layer: output channels} of all layers with channels."""
    layers = net.named_modules()
    widths = {name: getattr(layer, "out_channels", getattr(layer, "out_features", None)) for name, layer in layers}
    return {name: width for name, width in widths.items() if isinstance(width, int)}


def composed(first: Mapping[str, Sequence[int]], second: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The channels kept by two prunings, as `Pruned.kept`. Indices of `second` refer to the result of `first`."""
    again = {layer: [first[layer][i] for i in kept] if layer in first else list(kept) for layer, kept in second.items()}
    return {layer: list(kept) for layer, kept in first.items()} | again


def changes(before: Mapping[str, int], after: nn.Module) -> dict[str, list[int]]:
    """{layer: [output channels before, after]} of the layers whose width has changed."""
    widths = widths_of(after)
    return {name: [width, widths[name]] for name, width in before.items() if widths[name] != width}
