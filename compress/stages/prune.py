"""Prune: take whole channels out until the budget (or the given ratio) is met. torch -> torch."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from compress.budget import format_flops, parse_flops
from compress.config import Config, Objective
from compress.data import batches
from compress.errors import UserError
from compress.measure import flops
from compress.measure.layer_latency import layer_seconds
from compress.product import Model
from compress.pruning import solver
from compress.pruning.importance import NEED_GRADIENTS
from compress.pruning.sensitivity import accumulate_gradients
from compress.stages.context import Context

VERSION = 4
RECORD = "pruning.json"  # what was taken where, what was protected and why, and what that leaves in reach

log = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Exactly one of `prune.ratio` and `budget.flops` says how much; both or neither is a UserError."""
    ratio, budget = config.prune.ratio, config.budget.flops
    if (ratio is None) == (budget is None):
        found = f"prune.ratio={ratio}, budget.flops={budget}"
        raise UserError("prune", found, "give either budget.flops (e.g. 50%) or prune.ratio (e.g. 0.3), not both")


def check_model(model: Model, config: Config) -> None:
    """Raises UserError for a network that cannot be pruned, or not as far as the budget asks: before hours of work.

    Takes some seconds for a nano model; widths do not depend on weights, so a train stage changes nothing here.
    """
    net, protected = model.prunable()
    # How far pruning can go does not depend on the order in which channels leave, so any importance does.
    ranked = replace(config.prune, importance="random") if config.prune.importance in NEED_GRADIENTS else config.prune
    least, full = solver.reachable(net, model.example_input(), protected, ranked, counter(model))
    log.info("pruning can reach %s to %s FLOPs", format_flops(2 * least), format_flops(2 * full))
    if config.budget.flops is not None:
        solver.check_reachable(parse_flops(config.budget.flops, 2 * full) / 2, least, full)


def counter(model: Model) -> Callable[[nn.Module], int]:
    """MACs of the deployed form of a network of this family."""
    example = model.example_input()
    return lambda net: flops.count(model.with_net(net).deployed(), example).macs


def run(model: Model, context: Context) -> Model:
    config = context.config.prune
    parts = {"version": VERSION, "prune": asdict(config), "budget": context.config.budget.flops}
    parts["batch"] = context.config.finetune.batch  # that gradients are taken in

    def make(folder: Path) -> Model:
        return _prune(model, context, folder)

    return context.cached_model("prune", model, parts, make, record=RECORD)


def _prune(model: Model, context: Context, folder: Path) -> Model:
    config = context.config
    example, count = model.example_input(), counter(model)
    net, protected = model.prunable()
    full = count(net)
    if config.prune.importance in NEED_GRADIENTS:
        _look_at_data(net, model, context)
    by_latency = config.prune.objective is Objective.latency
    seconds = layer_seconds(model.with_net(net), config.threads) if by_latency else None
    if config.budget.flops is not None:
        budget = parse_flops(config.budget.flops, 2 * full)
        result = solver.prune_to_flops(
            net, example, protected, config.prune, budget_macs=budget / 2, count=count, seconds=seconds
        )
    else:
        assert config.prune.ratio is not None  # check() made sure
        result = solver.prune_to_ratio(net, example, protected, config.prune, config.prune.ratio, seconds)
    macs = count(result.net) if result.macs is None else result.macs
    log.info("prune: %s -> %s FLOPs (%.1f %%)", format_flops(2 * full), format_flops(2 * macs), 100 * macs / full)
    result.net.zero_grad(set_to_none=True)
    facts: dict[str, Any] = {"macs_before": full, "macs_after": macs, "reachable": result.reachable}
    facts["ratio"] = result.ratio
    facts |= {"channels": result.channels, "protected": result.protected}
    facts["out_of_reach"] = _out_of_reach(model.with_net(result.narrowest), result.protected)
    if seconds is not None:
        facts["layer_milliseconds"] = {layer: round(1000 * took, 5) for layer, took in seconds.items()}
    (folder / RECORD).write_text(json.dumps(facts, indent=1))
    return model.with_net(result.net)


def _out_of_reach(narrowest: Model, protected: Iterable[str]) -> dict[str, int]:
    """FLOPs that are left in each protected module when everything prunable is gone; modules that cost nothing, or are
    not deployed, are left out."""
    layers = flops.count(narrowest.deployed(), narrowest.example_input()).layers
    left = {
        name: sum(cost.macs for layer, cost in layers.items() if f"{layer}.".startswith(f"{name}."))
        for name in protected
    }
    return {name: 2 * macs for name, macs in left.items() if macs}


def _look_at_data(net: nn.Module, model: Model, context: Context) -> None:
    """Gradients of the trained model's loss on training images, from which the importance is computed."""
    config, data = context.config, context.data
    size = min(config.finetune.batch, len(data.train))
    stream = batches(data.train, model.task, batch=size, seed=config.seed, epoch=0, augment=False)
    model.progress(net, 1.0)
    some = itertools.islice(stream, max(1, config.prune.images // size))
    accumulate_gradients(net, model.loss, some, squared=NEED_GRADIENTS[config.prune.importance])
