"""Prune: take whole channels out until the budget (or the given ratio) is met. torch -> torch."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from compress import checkpoint, models, reference
from compress.config import Config, Objective
from compress.data import batches
from compress.errors import UserError
from compress.measure import flops
from compress.measure.layer_latency import layer_seconds
from compress.models.ultralytics_model import UltralyticsModel
from compress.product import Model
from compress.pruning import solver
from compress.pruning.gradients import accumulate_gradients
from compress.pruning.importance import NEED_GRADIENTS
from compress.recovery import recover
from compress.stages.context import Context
from compress.units import format_flops

VERSION = 5
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
    if config.prune.equal_halves and not isinstance(model, UltralyticsModel):
        raise UserError(
            "prune.equal_halves", True, "it is for blocks of Ultralytics' networks, and this is none: false"
        )
    net, protected = model.prunable()
    # How far pruning can go does not depend on the order in which channels leave, so any importance does.
    ranked = replace(config.prune, importance="random") if config.prune.importance in NEED_GRADIENTS else config.prune
    least, full = solver.reachable(net, model.example_input(), protected, ranked, counter(model))
    if config.prune.rounds > 1 and config.finetune.teacher is not None:
        reference.load(config.finetune.teacher, model, config.model)
    log.info("pruning can reach %s to %s FLOPs", format_flops(2 * least), format_flops(2 * full))
    if (limit := config.budget.flops_limit) is not None:
        solver.check_reachable(limit.of(2 * full) / 2, least, full)


def counter(model: Model) -> Callable[[nn.Module], int]:
    """MACs of the deployed form of a network of this family."""
    example = model.example_input()
    return lambda net: flops.count(model.with_net(net).deployed(), example).macs


def run(model: Model, context: Context) -> Model:
    config = context.config.prune
    parts: dict[str, Any] = {"version": VERSION, "prune": asdict(config), "budget": context.config.budget.flops}
    parts["batch"] = context.config.finetune.batch  # that gradients are taken in
    if config.rounds > 1:
        parts["finetune"] = asdict(context.config.finetune)
        teacher = reference.teacher(model, context.unpruned, context.config)
        parts |= reference.parts(teacher, reference.flops_before(model, context.unpruned, context.config))

    def make(folder: Path) -> Model:
        return _prune(model, context, folder)

    return context.cached_model("prune", model, parts, make, record=RECORD)


def _prune(model: Model, context: Context, folder: Path) -> Model:
    """All rounds, with tuning in between."""
    count, rounds = counter(model), context.config.prune.rounds
    net, _ = model.prunable()
    full, widths, kept = count(net), solver.widths_of(net), 1.0
    limit = context.config.budget.flops_limit
    goal = None if limit is None else limit.of(2 * full) / 2
    for number in range(1, rounds + 1):
        # Each round leaves the same share of the MACs, or of the channels, that it finds.
        macs = None if goal is None else full * (goal / full) ** (number / rounds)
        result, facts = _round(model, context, macs, widths)
        model, kept = model.with_net(result.net), kept * (1 - result.ratio)
        after = count(result.net) if result.macs is None else result.macs
        log.info("prune: %s -> %s FLOPs (%.1f %%)", format_flops(2 * full), format_flops(2 * after), 100 * after / full)
        if number < rounds:
            model = _tune(model, context, folder / f"round-{number}")
    facts |= {"macs_before": full, "macs_after": after, "ratio": 1 - kept}
    facts["reachable"] = None if result.reachable is None else (result.reachable[0], full)
    facts |= {"channels": solver.changes(widths, result.net), "protected": result.protected}
    facts["out_of_reach"] = _out_of_reach(model.with_net(result.narrowest), result.protected)
    (folder / RECORD).write_text(json.dumps(facts, indent=1))
    return model


def _round(
    model: Model, context: Context, macs: float | None, widths: Mapping[str, int]
) -> tuple[solver.Pruned, dict[str, Any]]:
    """What one round takes, down to `macs` or by its part of the ratio, and what it went by."""
    config, example = context.config, model.example_input()
    net, protected = model.prunable()
    if config.prune.importance in NEED_GRADIENTS:
        _look_at_data(net, model, context)
    seconds, facts = None, {}
    if config.prune.objective is Objective.latency:
        seconds = layer_seconds(model.with_net(net), config.threads)
        facts["layer_milliseconds"] = {layer: round(1000 * took, 5) for layer, took in seconds.items()}
    if macs is not None:
        result = solver.prune_to_flops(
            net, example, protected, config.prune,
            budget_macs=macs, count=counter(model), seconds=seconds, widths=widths,
        )  # fmt: skip
    else:
        assert config.prune.ratio is not None  # check() made sure
        ratio = 1 - (1 - config.prune.ratio) ** (1 / config.prune.rounds)
        result = solver.prune_to_ratio(net, example, protected, config.prune, ratio, seconds, widths)
    result.net.zero_grad(set_to_none=True)
    return result, facts


def _tune(model: Model, context: Context, folder: Path) -> Model:
    """The model after the tuning between two rounds; the one in `folder`, where an interrupted stage has left it."""
    if not (folder / checkpoint.FACTS).exists():
        config = replace(context.config.finetune, images=context.config.prune.round_images)
        train, seed = context.data.train, context.config.seed
        tuned = recover(
            model, reference.teacher(model, context.unpruned, context.config), train, config,
            seed=seed, stage="finetune", folder=folder, settings=context.settings,
            flops_before=reference.flops_before(model, context.unpruned, context.config),
        )  # fmt: skip
        checkpoint.save(tuned, folder)
    return checkpoint.load(folder, models.rebuilder(model))


def _out_of_reach(narrowest: Model, protected: Iterable[str]) -> dict[str, int]:
    """FLOPs that are left in each protected module when everything prunable is gone; modules that cost nothing, or are
    not deployed, are left out."""
    cost = flops.count(narrowest.deployed(), narrowest.example_input())
    left = {name: 2 * cost.macs_within(name) for name in protected}
    return {name: work for name, work in left.items() if work}


def _look_at_data(net: nn.Module, model: Model, context: Context) -> None:
    """Gradients of the trained model's loss on training images, from which the importance is computed."""
    config, data = context.config, context.data
    size = min(config.finetune.batch, len(data.train))
    stream = batches(data.train, model.task, batch=size, seed=config.seed, epoch=0, augment=False)
    model.progress(net, 1.0)
    some = itertools.islice(stream, max(1, config.prune.images // size))
    squared = NEED_GRADIENTS[config.prune.importance]
    bfloat16 = context.settings is not None and context.settings.bfloat16
    try:
        accumulate_gradients(net, model.loss, some, squared=squared, bfloat16=bfloat16)
    except FloatingPointError as error:
        remedy = f"{error} on the training images: give group_l2, which looks at none, or check weights and data"
        raise UserError("prune.importance", config.prune.importance, remedy) from error
