"""Runs a recipe: loads and measures the model, runs and measures each stage, writes the verdict and the report.

During a run only this module writes ledgers: `ledger.jsonl`, and `controls.jsonl` for `compress.controls`."""

from __future__ import annotations

import json
import logging
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from compress import (
    atomic,
    checkpoint,
    data,
    devices,
    disk,
    lineage,
    models,
    report,
    run_folder,
    tasks,
    trackers,
)
from compress.budget import Verdict, baseline, judge, undetermined_verdict
from compress.cache import DEFAULT_ROOT, Cache
from compress.capabilities import Checkpointable, Evaluable, Model, require
from compress.config import Config, dump
from compress.config.messages import nearest
from compress.controls import CONTROLS
from compress.data import DataSet
from compress.errors import UserError
from compress.finetuning import choose_settings
from compress.host import host, usable_threads
from compress.ledger import Ledger, Row
from compress.measurement import answers, bottlenecks, channels, drawings, layer_times, rapl
from compress.measurement.rows import Costs, measure_model
from compress.product import Product, Reference
from compress.recorder import LOAD, Recorder
from compress.stages import STAGES, Context
from compress.targets import get as get_target
from compress.targets.converter import Converter
from compress.tasks import SupervisedTask, metric
from compress.trackers import Trackers
from compress.training import distributed
from compress.training.placement import Placement, prepare, resolve
from compress.training.settings import TrainingSettings

log = logging.getLogger(__name__)

CHECKPOINT = "pruned"  # in the run folder: the last torch model, also if no stage pruned it


@dataclass(frozen=True)
class Result:
    """Outcome of a run: its folder (see docs/user-guide/run-folder.md), the rows of `ledger.jsonl` and the verdict."""

    folder: Path
    rows: tuple[Row, ...]
    verdict: Verdict


@dataclass(frozen=True)
class Plan:
    """A checked configuration with its loaded model and data."""

    config: Config
    product: Product
    costs: Costs  # of the model
    data: DataSet
    settings: TrainingSettings | None  # how this machine trains; None if no stage trains or computes gradients
    placement: Placement  # where networks are trained and evaluated
    trackers: Trackers


def run(config: Config, folder: Path, words: Sequence[str] = ()) -> Result:
    """Runs a recipe in `folder`, which is created if it is missing. If it holds an interrupted run of the same
    configuration, continues that run: finished stages and their measurements come from the cache.

    Args:
        words: the overrides that `config` was composed from. The command with them is the first line of `config.yaml`.

    Raises:
        UserError: before the first stage, if the configuration is invalid, or `folder` holds a finished run or a run of
            another configuration; during a stage, if losses or gradients are not finite.
        disk.Unwritable: the file system caused an error, such as a full disk.
    """
    with run_folder.hold(folder, dump(config)) as state:
        try:
            plan = _checked(config)
            with plan.trackers:
                result = _run(plan, folder, state, words)
        except Exception as error:
            if message := disk.problem(error, folder):
                raise disk.Unwritable(message) from error
            raise
    run_folder.link_latest(folder)
    return result


def _checked(config: Config) -> Plan:
    """Loads model and data, and checks the configuration with them as far as is possible before any work. Sets torch's
    number of threads and its seed for the process."""
    config = devices.resolve(config)
    devices.check(config)
    devices.energy.check(config.budget, config.device, counters=rapl.available())
    _check_stages(config)
    Cache(DEFAULT_ROOT).check()
    models.check_files(config.model)
    loaded_trackers = trackers.load(config.trackers)
    custom_task = tasks.load(config.task.target) if config.task.target else None
    models.check_task(config.model, custom_task or data.task_of(config.data))
    config = models.resolve(config)
    for target in config.targets or []:
        get_target(target)  # raises for unknown names and missing packages
    if config.threads > (usable := usable_threads()):
        message = "threads=%d: this process may use only %d CPUs; more threads than CPUs slow it down"
        log.warning(message, config.threads, usable)
    placement = resolve(config.accelerator, config.devices, distributed.processes_here())
    prepare(placement.device())
    distributed.use(len(placement.indices))
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    dataset, model = _loaded(config, custom_task)
    _check_images(config, dataset)
    if not config.data.labels and config.data.name != data.NONE:
        answers.check(model, dataset)
    costs = Costs.of(model)
    product = Product(model, lineage.recorded_reference(config.model, model))
    with devices.fps_named_in_errors(config):
        for stage in config.stages:
            STAGES[stage].check(product, config, dataset)
    distillation = lineage.with_distillation_weight(config, product.reference).distillation or 0.0
    settings = choose_settings(model, config, distillation, dataset, placement, Cache(DEFAULT_ROOT, config.cache))
    return Plan(config, product, costs, dataset, settings, placement, loaded_trackers)


def _loaded(config: Config, task: SupervisedTask | None) -> tuple[DataSet, Model]:
    """Data and model. `task`: that of `task.target`."""
    if config.data.name == data.NONE:
        model: Model = models.build(config.model, task=task)
        return data.without_images(model.task, model.classes, *config.model.input), model
    if config.data.name == data.IMAGES:
        model = models.build(config.model, task=task)
        known = require(model, Evaluable, "data", data.IMAGES)
        assert isinstance(known.task, SupervisedTask)  # as of every `Evaluable` model
        dataset = data.load(config.data, *config.model.input, config.seed, known.task, model.classes)
    else:
        dataset = data.load(config.data, *config.model.input, config.seed, task)
        model = models.build(config.model, dataset.classes, dataset.task)
    chosen = metric.select(config.metric, data.supervised(dataset.validation).metrics(len(dataset.classes)))
    return data.with_metric(dataset, chosen) if chosen else dataset, model


def _check_stages(config: Config) -> None:
    """Raises UserError if stages are unknown, repeated or out of order, or do not fit the rest of the configuration."""
    order = list(STAGES)
    for stage in config.stages:
        if stage not in STAGES:
            raise UserError("stages", stage, f"there is no such stage{nearest(stage, order)}")
    if list(config.stages) != [stage for stage in order if stage in config.stages]:
        names = ", ".join(config.stages)
        raise UserError("stages", f"[{names}]", f"name each stage at most once and in this order: {', '.join(order)}")
    _ = config.budget.flops_limit  # raises if it cannot be parsed
    for stage in config.stages:
        STAGES[stage].check_config(config)
    if config.controls and not {"prune", "finetune"} <= set(config.stages):
        remedy = "controls need a pruned and fine-tuned model to compare with: add prune and finetune to stages"
        raise UserError("controls", True, remedy)


def _check_images(config: Config, dataset: DataSet) -> None:
    """Raises UserError if a stage needs images of a split that the data does not have."""
    for stage in config.stages:
        for split in STAGES[stage].images(config):
            if not len(getattr(dataset, split)):
                name = "validation" if split == "validation" else "train"  # calibration images are taken from train
                remedy = f"the stage {stage} needs images of the {name} split, and the data has none: add them"
                raise UserError("data", config.data.path or config.data.name, remedy)
    if config.data.name == data.NONE and config.targets:
        raise UserError("targets", config.targets, "targets are measured on images: set targets=[], or set data")


def _run(plan: Plan, folder: Path, state: run_folder.State, words: Sequence[str]) -> Result:
    config = plan.config
    state.begin(LOAD)
    command = f"# python -m compress {shlex.join(words)}"
    atomic.write(folder / "config.yaml", (f"{command}\n" if words and command.isprintable() else "") + dump(config))
    machine = {"schema_version": 1, "host": host().as_dict(), "training": plan.settings and plan.settings.as_dict()}
    atomic.write(folder / "machine.json", json.dumps(machine, indent=1))
    scratch = Path(tempfile.mkdtemp())
    cache = Cache(DEFAULT_ROOT, config.cache)
    converter = Converter(scratch, config.export, cache)
    if not config.data.labels and config.data.name != data.NONE:
        reference = plan.product.reference and plan.product.reference.model
        answering, device = reference or plan.product.model, plan.placement.device()
        plan = replace(plan, data=answers.answered(plan.data, answering, config.data.confidence, device, cache))
    where, metrics = plan.placement, plan.trackers.metrics
    context = Context(config, plan.data, folder, scratch, cache, converter, plan.settings, where, metrics)
    ledger = Ledger(folder / "ledger.jsonl", folder.name)
    plan.trackers.start(config, folder)
    recorder = Recorder(context, ledger, plan.trackers)
    product, costs = _run_stages(plan, context, recorder, state)
    state.begin("report")
    if recorder.stop_reason:
        verdict = undetermined_verdict(recorder.stop_reason, baseline(ledger.rows), product.failures)
    else:
        controls = _measure_controls(product.reference, context, ledger.rows) if config.controls else []
        verdict = judge(
            config.budget, config.quantize.max_accuracy_drop, ledger.rows, product.failures, config.device, controls,
            product.acceptance_checks,
        )  # fmt: skip
    round_to = config.prune.round_to if "prune" in config.stages else None
    models_of_run = (recorder.baseline or product.model, product.model)
    further = devices.remarks(config, ledger.rows, models_of_run, context.converter)
    further += bottlenecks.remarks(config, ledger.rows, models_of_run, context.converter, recorder.reuse.node_seconds)
    further += channels.remarks(product.model, costs.at_imgsz, round_to)
    verdict = replace(verdict, remarks=(*verdict.remarks, *further))
    atomic.write(folder / "verdict.json", json.dumps(verdict.as_dict(), indent=1))
    layer_times.write(folder, config, models_of_run, context.converter, recorder.reuse.node_seconds)
    drawings.write(folder, plan.data, recorder.baseline, product, config, cache)
    page = report.render(folder)
    plan.trackers.finish(verdict)
    with suppress(BrokenPipeError, SystemExit):  # raised by rich if stdout is a closed pipe, as in `| head`
        report.print_table(folder)
    log.info("report: %s", page)
    if recorder.stop_reason:
        log.error("stopped after the baseline: %s (force=true continues)", recorder.stop_reason.text)
    return Result(folder, tuple(ledger.rows), verdict)


def _run_stages(plan: Plan, context: Context, recorder: Recorder, state: run_folder.State) -> tuple[Product, Costs]:
    """Runs the stages and measures each product. Returns the last product and the costs of its model."""
    stages, costs = plan.config.stages, plan.costs
    product = recorder.record(LOAD, plan.product, costs)
    for index, name in enumerate(stages):
        if recorder.stop_reason:
            break
        log.info("stage %d of %d: %s", index + 1, len(stages), name)
        state.begin(name)
        plan.trackers.stage(name)
        previous, product = product, STAGES[name].run(product, context)
        if product.model is not previous.model:
            costs = costs.after(product.model, previous.model)
        if isinstance(product.model, Checkpointable) and not product.graphs:  # with graphs, the model is unchanged
            folder = context.folder / CHECKPOINT
            checkpoint.save(product.model, folder, lineage.as_dict(product.reference))
            models.save_native(product.model, folder)
        product = recorder.record(name, product, costs)
    return product, costs


def _measure_controls(reference: Reference | None, context: Context, rows: Sequence[Row]) -> list[Row]:
    """Makes and measures the controls: models from simpler methods (see `compress.controls`), with about the FLOPs of
    the last torch row. Writes and returns their rows; controls that raise UserError are logged and omitted."""
    assert reference is not None  # controls require the stage prune, which sets it
    flops = [row for row in rows if row.target is None][-1].flops
    ledger = Ledger(context.folder / "controls.jsonl", context.folder.name)
    for name, make in CONTROLS.items():
        log.info("control: %s", name)
        try:
            control = make(reference, flops, context)
        except UserError as error:  # a failed control must not fail the run, which is complete
            log.warning("control %s: %s", name, error)
            continue
        costs, threads = Costs.of(control.model), context.config.threads
        row = measure_model(
            name, control.model, costs, control.data, threads=threads, cached=False, wait=False,
            baseline_row=baseline(rows), device=context.device,
        )  # fmt: skip
        ledger.append(row)
    return list(ledger.rows)
