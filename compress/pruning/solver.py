"""Solver: prunes a network to a FLOPs budget or to a ratio of its channels. See README.md for the method.

A step removes channels, at most `round_to`, from one group of coupled layers (`allocation.Step`, `groups.Group`). MACs
are those of the deployed form (`Model.deployed`); 1 MAC = 2 FLOPs."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from compress.config import PruneConfig
from compress.errors import UserError
from compress.pruning import search
from compress.pruning.allocation import ALLOCATIONS, Step, order, steps_of
from compress.pruning.estimate import Estimate
from compress.pruning.groups import Group, cut, find_groups, halves, tie
from compress.pruning.importance import importance

RATIO_TOLERANCE = 0.05  # a larger difference from the ratio is logged as a warning

Count = Callable[[nn.Module], int]  # exact MACs of the deployed form of a network
Latency = Callable[[nn.Module], float]  # ms

T = TypeVar("T")

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
    net: nn.Module, example: Tensor, protected: Mapping[str, str], config: PruneConfig, count: Callable[[nn.Module], T]
) -> tuple[T, T]:
    """Returns `count` (of MACs, or another cost) of the network after all steps, and unpruned. Other arguments as in
    `prune_to_flops`, errors as in `prune_to_ratio`."""
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
    # Each trial modifies its estimate, so the search makes a new one per trial, in MACs even if `order` used seconds.
    macs_of, estimate = lambda taken: count(_cut(net, taken)), lambda: Estimate(net, example)
    taken, macs = search.within_macs(steps, macs_of, budget_macs, full, least, estimate)
    return replace(_pruned(net, plan, taken, narrowest), macs=macs, reachable=(least, full))


def prune_to_latency(
    net: nn.Module,
    example: Tensor,
    protected: Mapping[str, str],
    config: PruneConfig,
    *,
    limit_ms: float,
    latency: Latency,
    count: Count,
    seconds: Mapping[str, float] | None = None,
    widths: Mapping[str, int] | None = None,
) -> Pruned:
    """Prunes until `latency` of the network is at most `limit_ms`: searches for the most MACs, pruned to as by
    `prune_to_flops`, that meet it. Each trial interpolates between the nearest networks above and below the limit.

    Other arguments and errors as in `prune_to_flops`, and UserError, which names the range, if the limit is out of
    reach."""
    plan = _plan(net, example, protected, config, widths)
    steps = order(plan.steps, config.allocation, Estimate(net, example, seconds))
    narrowest = _cut(net, steps)
    full, least = count(net), count(narrowest)
    above, below = (full, latency(net)), (least, latency(narrowest))  # MACs, ms
    check_latency_reachable(limit_ms, below[1], above[1])
    taken, macs = search.within_latency(
        steps, lambda taken: count(_cut(net, taken)), lambda taken: latency(_cut(net, taken)), limit_ms, above, below,
        lambda: Estimate(net, example),
    )  # fmt: skip
    return replace(_pruned(net, plan, taken, narrowest), macs=macs, reachable=(least, full))


def check_latency_reachable(limit_ms: float, least: float, full: float) -> None:
    """Raises UserError, which names the range, if `limit_ms` is below `least`, or if the network meets it unpruned."""
    if least <= limit_ms < full:
        return
    too_low = "raise the limit, lower model.imgsz, or prune a smaller model"
    too_high = "the model already meets the limit: lower it, or remove prune from stages"
    remedy = too_low if limit_ms < least else too_high
    raise UserError("budget.latency_ms", f"{limit_ms:g}", f"pruning can reach {least:.4g} to {full:.4g} ms: {remedy}")


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
