"""Prune: removes whole channels until `budget.flops` or `prune.ratio` is met, or until the latency predicted for the
device meets `budget.latency_ms`. Takes and returns a torch model."""

from __future__ import annotations

import functools
import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from compress import checkpoint, lineage, models
from compress.cache import DEFAULT_ROOT, Cache
from compress.cached_graphs import environment, model_key
from compress.capabilities import Checkpointable, LossScheduled, Model, Prunable, TorchModel, Trainable, require
from compress.config import HOST, Config, Objective, PruneConfig
from compress.data import DataSet, batches
from compress.errors import TargetFailed, UserError
from compress.finetuning import tune
from compress.measurement import answers, flops
from compress.measurement.layer_latency import layer_seconds
from compress.measurement.predicted_latency import PredictedLatency
from compress.product import Product, Reference
from compress.pruning import groups, solver
from compress.pruning.gradients import accumulate_gradients
from compress.pruning.importance import NEED_GRADIENTS
from compress.stages.context import Context
from compress.stages.stage import Stage
from compress.training.memory import out_of_memory
from compress.units import format_flops

NAME = "prune"
VERSION = 7
RECORD = "pruning.json"  # its keys are described in docs/user-guide/run-folder.md

log = logging.getLogger(__name__)


def check_config(config: Config) -> None:
    """Raises UserError if labels are missing, or unless exactly one key decides how much is pruned: `prune.ratio`,
    `budget.flops` or, if these are null, `budget.latency_ms` of another device."""
    ratio, budget = config.prune.ratio, config.budget.flops
    if (ratio is None) == (budget is None) and not _by_latency(config):
        remedy = (
            "set exactly one: budget.flops (FLOPs to keep, e.g. 50%) or prune.ratio (channels to remove, e.g. 0.3); or "
            "neither, and budget.latency_ms with the name of another device"
        )
        raise UserError("prune", f"prune.ratio={ratio}, budget.flops={budget}", remedy)
    if config.prune.rounds > 1:
        lineage.check_labels(config)


def _by_latency(config: Config) -> bool:
    """Whether the latency predicted for the device decides how much is pruned."""
    without = config.prune.ratio is None and config.budget.flops is None
    return without and config.budget.latency_ms is not None and config.device.name != HOST


def check(product: Product, config: Config, data: DataSet) -> None:
    """Raises UserError if the network cannot be pruned, the budget is out of reach, or `finetune.teacher` cannot teach
    between rounds. The reachable range does not depend on the weights, so a later train stage does not change it."""
    model = require(product.model, Prunable, "stages", NAME)
    net, protected = model.prunable()
    if config.prune.equal_split_widths and not groups.halves(net):
        remedy = "no block of the network splits its channels (as Ultralytics' C2f): set prune.equal_split_widths=false"
        raise UserError("prune.equal_split_widths", True, remedy)
    predicted = PredictedLatency(config) if _uses_prediction(config) else None
    pruning = _any_order(config)
    cache = Cache(DEFAULT_ROOT, config.cache)
    # A run that is refused leaves no files, so `run` stores the range.
    least, full = cache.known_value(*_range_key(model, pruning)) or _range(model, pruning)
    if config.prune.rounds > 1 and config.finetune.teacher is not None:
        lineage.load_teacher(config.finetune.teacher, model, config.model)  # raises if it cannot teach `model`
    log.info("pruning can reach %s to %s FLOPs", format_flops(2 * least), format_flops(2 * full))
    if (limit := config.budget.flops_limit) is not None:
        solver.check_reachable(limit.macs(full), least, full)
    if predicted and _by_latency(config):
        ms = solver.reachable(net, model.example_input(), protected, pruning, _milliseconds(model, predicted))
        solver.check_latency_reachable(_limit_ms(config), *ms)


def _any_order(config: Config) -> PruneConfig:
    """The reachable range does not depend on the order of removal, so any importance without gradients will do."""
    return replace(config.prune, importance="random") if config.prune.importance in NEED_GRADIENTS else config.prune


def _range(model: Prunable, pruning: PruneConfig) -> tuple[int, int]:
    """MACs of the smallest network that pruning can reach, and of the unpruned one."""
    net, protected = model.prunable()
    return solver.reachable(net, model.example_input(), protected, pruning, counter(model))


def _range_key(model: Prunable, pruning: PruneConfig) -> tuple[str, dict[str, Any]]:
    """Names `_range` in the cache."""
    return "reachable", {"version": VERSION, **model_key(model), "prune": asdict(pruning), **environment()}


def counter(model: TorchModel) -> Callable[[nn.Module], int]:
    """Returns a function that counts the MACs of the deployed form of a network of this model."""
    example = model.example_input()
    return lambda net: flops.count(model.with_net(net).deployed(), example).macs


def run(product: Product, context: Context) -> Product:
    """Returns the product with the pruned model and with its reference, the model before the first pruning."""
    pruning = context.config.prune
    unpruned, any_order = require(product.model, Prunable, "stages", NAME), _any_order(context.config)
    context.cache.fetch_value(*_range_key(unpruned, any_order), lambda: _range(unpruned, any_order))  # for later checks
    reference = lineage.reference_for_pruning(product, context.config, context.folder)
    product = replace(product, reference=reference)
    parts: dict[str, Any] = {"version": VERSION, "prune": asdict(pruning), "budget": context.config.budget.flops}
    if _uses_prediction(context.config):
        parts["predicted"] = context.config.budget.latency_ms, PredictedLatency(context.config).cache_key()
    parts["batch"] = context.config.finetune.batch  # also the batch size of the gradients
    if not context.config.data.labels and pruning.importance in NEED_GRADIENTS:
        parts["answers"] = answers.source(reference.model, context.config.data.confidence)
    if pruning.rounds > 1:
        parts["finetune"] = asdict(lineage.with_distillation_weight(context.config, product.reference))
        teacher = lineage.teacher(product, context.config)
        parts |= lineage.cache_parts(teacher, lineage.reference_flops(product))
    make = functools.partial(_prune, product, context)
    model, cached = context.cached_model(NAME, product.model, parts, make, record=RECORD)
    kept = json.loads((context.folder / RECORD).read_text())["kept"]
    reference = lineage.with_kept(reference, product.model, kept)
    return replace(product, model=model, reference=reference, cached=cached)


def _prune(product: Product, context: Context, folder: Path) -> TorchModel:
    """Returns the model pruned in `prune.rounds` rounds, with fine-tuning between them. Writes `RECORD` to `folder`."""
    model = require(product.model, Prunable, "stages", NAME)
    config, count = context.config, counter(model)
    predicted = PredictedLatency(config) if _uses_prediction(config) else None
    net, _ = model.prunable()
    unpruned = flops.count(model.with_net(net).deployed(), model.example_input())  # named as the pruned network is
    full, widths, remaining, rounds = unpruned.macs, solver.widths_of(net), 1.0, config.prune.rounds
    kept: dict[str, list[int]] = {}
    limited: Callable[[nn.Module], float] = count  # what `goal` limits: MACs, or milliseconds
    goal = None if config.budget.flops_limit is None else config.budget.flops_limit.macs(full)
    if predicted and _by_latency(config):
        limited, goal = _milliseconds(model, predicted), config.budget.latency_ms
    first = now = limited(net)
    for number in range(1, rounds + 1):
        # Each round keeps the same fraction of the MACs, milliseconds or channels that the previous round left.
        part = None if goal is None else first * (goal / first) ** (number / rounds)
        if part is not None and number > 1 and now <= part:
            continue  # already met: whole steps of `round_to` channels may remove more than a round's part
        if number > 1:
            tuned = _tune(replace(product, model=model), context, folder / f"round-{number - 1}")
            model = require(tuned, Prunable, "stages", NAME)
        result, record = _round(model, product.reference, context, part, widths, predicted)
        model, remaining = model.with_net(result.net), remaining * (1 - result.ratio)
        kept = solver.composed(kept, result.kept)
        after, now = count(result.net), limited(result.net)
        log.info("prune: %s -> %s FLOPs (%.1f %%)", format_flops(2 * full), format_flops(2 * after), 100 * after / full)
    if predicted and _by_latency(config):
        file, latency = predicted.of(model)
        record["predicted_latency"] = {"limit_ms": goal, "ms_before": first, "file": "/".join(file), **asdict(latency)}
        log.info("prune: %.3g -> %.3g ms predicted on %s in %s", first, latency.ms, config.device.name, "/".join(file))
    record |= {"macs_before": full, "macs_after": after, "ratio": 1 - remaining}
    layers = flops.count(model.deployed(), model.example_input()).layer_macs
    record["layer_macs"] = {name: (macs, layers.get(name, 0)) for name, macs in unpruned.layer_macs.items()}
    record["reachable"] = None if result.reachable is None else (result.reachable[0], full)
    record |= {"channels": solver.changes(widths, result.net), "kept": kept, "protected": result.protected}
    cost = flops.count(model.with_net(result.narrowest).deployed(), model.example_input())
    protected_flops = {name: 2 * cost.macs_within(name) for name in result.protected}  # with all else at minimum width
    record["out_of_reach"] = {name: value for name, value in protected_flops.items() if value}
    (folder / RECORD).write_text(json.dumps(record, indent=1))
    return model


def _round(
    model: Prunable, reference: Reference | None, context: Context, limit: float | None, widths: Mapping[str, int],
    predicted: PredictedLatency | None,
) -> tuple[solver.Pruned, dict[str, Any]]:  # fmt: skip
    """Prunes one round, to `limit` (MACs, or ms if the latency decides) or, if that is None, by the ratio that results
    in `prune.ratio` after all rounds. Returns the result and entries for `RECORD`."""
    config, example = context.config, model.example_input()
    net, protected = model.prunable()
    if config.prune.importance in NEED_GRADIENTS:
        _accumulate(net, model, (reference and reference.model) or model, context)
    seconds, record = None, {}
    if config.prune.objective is Objective.latency:
        try:
            timed = model.with_net(net)
            seconds = predicted.layer_seconds(timed) if predicted else layer_seconds(timed, config.threads)
        except TargetFailed as error:
            raise UserError("prune.objective", "latency", f"{error}: set prune.objective=flops") from error
        record["layer_milliseconds"] = {layer: round(1000 * time, 5) for layer, time in seconds.items()}
    if limit is not None and predicted and _by_latency(config):
        result = solver.prune_to_latency(
            net, example, protected, config.prune, limit_ms=limit, latency=_milliseconds(model, predicted),
            count=counter(model), seconds=seconds, widths=widths,
        )  # fmt: skip
    elif limit is not None:
        result = solver.prune_to_flops(
            net, example, protected, config.prune,
            budget_macs=limit, count=counter(model), seconds=seconds, widths=widths,
        )  # fmt: skip
    else:
        assert config.prune.ratio is not None  # ensured by check_config()
        ratio = 1 - (1 - config.prune.ratio) ** (1 / config.prune.rounds)
        result = solver.prune_to_ratio(net, example, protected, config.prune, ratio, seconds, widths)
    result.net.zero_grad(set_to_none=True)
    return result, record


def _uses_prediction(config: Config) -> bool:
    return _by_latency(config) or (config.prune.objective is Objective.latency and config.device.name != HOST)


def _milliseconds(model: TorchModel, predicted: PredictedLatency) -> Callable[[nn.Module], float]:
    """Returns a function that predicts the latency of a network of this model."""
    return lambda net: predicted.of(model.with_net(net))[1].ms


def _limit_ms(config: Config) -> float:
    assert config.budget.latency_ms is not None  # where `_by_latency`
    return config.budget.latency_ms


def _tune(product: Product, context: Context, folder: Path) -> Checkpointable:
    """Fine-tunes between two rounds, or loads the result that an interrupted stage has saved in `folder`."""
    training = f"{NAME}/{folder.name}"
    if not (folder / checkpoint.DESCRIPTION).exists():
        finetuning = lineage.with_distillation_weight(context.config, product.reference)
        tuned = tune(
            product.model, lineage.teacher(product, context.config), context.data.train,
            replace(finetuning, images=context.config.prune.round_images),
            seed=context.config.seed, stage="finetune", folder=folder, settings=context.settings,
            flops_before=lineage.reference_flops(product), report=context.report(training),
        )  # fmt: skip
        checkpoint.save(require(tuned, Checkpointable, "stages", NAME), folder)
    else:
        context.report_curves(folder, training)
    return checkpoint.load(folder, models.rebuilder(require(product.model, Checkpointable, "stages", NAME)))


def _accumulate(net: nn.Module, model: TorchModel, reference: Model, context: Context) -> None:
    """Accumulates the gradients of the loss on `prune.images` training images, rounded to whole batches. Without
    labels, the predictions of `reference` replace them."""
    config, train = context.config, context.data.train
    size = min(config.finetune.batch, len(train))
    if not train.labelled:
        train = answers.with_answers(
            train.subset(max(size, config.prune.images), config.seed), reference, config.data.confidence, context.device
        )
    stream = batches(train, batch=size, seed=config.seed, epoch=0, augment=False)
    trainable = require(model, Trainable, "prune.importance", config.prune.importance)
    if isinstance(model, LossScheduled):
        model.schedule_loss(net, 1.0)
    selected = itertools.islice(stream, max(1, config.prune.images // size))
    squared = NEED_GRADIENTS[config.prune.importance]
    format, device = context.settings.format if context.settings else "fp32", context.device
    try:
        accumulate_gradients(net, trainable.loss, selected, squared=squared, format=format, device=device)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        remedy = f"{device} has too little memory for the gradients of a batch: set a smaller one, or group_l2"
        raise UserError("finetune.batch", size, remedy) from error
    except FloatingPointError as error:
        remedy = f"{error} on the training images: check weights and data, or set prune.importance=group_l2"
        raise UserError("prune.importance", config.prune.importance, remedy) from error


def _images(config: Config) -> Sequence[str]:
    return ("train",) if config.prune.importance in NEED_GRADIENTS or config.prune.rounds > 1 else ()


STAGE = Stage(NAME, run, check_config=check_config, check=check, images=_images)
