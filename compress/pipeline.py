"""The only file that knows the order: load, weigh, (stage, weigh) for each stage, judge, report."""

from __future__ import annotations

import functools
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from compress import atomic, checkpoint, data, devices, disk, models, reference, report, run_folder
from compress.budget import Verdict, baseline, judge, knows_nothing, stopped
from compress.cache import DEFAULT_ROOT as CACHE
from compress.cache import Cache
from compress.config import Config, Stage, dump
from compress.controls import CONTROLS
from compress.data import DataSet
from compress.errors import UserError
from compress.host import host, usable_threads
from compress.ledger import Ledger, Row
from compress.measure import channels
from compress.measure.weigh import Costs, weigh_graph, weigh_model
from compress.capabilities import Model
from compress.product import Graph, Precision
from compress.pruning.importance import NEED_GRADIENTS
from compress.recovery import prepare
from compress.run_folder import State
from compress.stages import export, finetune, prune, quantize
from compress.stages.context import Context
from compress.targets import get as get_target
from compress.training_settings import TrainingSettings

log = logging.getLogger(__name__)

Product = Model | Graphs | Artifacts

STAGES: dict[Stage, Callable[[Any, Context], Product]] = {
    Stage.train: functools.partial(finetune.run, stage="train"),
    Stage.prune: prune.run,
    Stage.finetune: finetune.run,
    Stage.quantize: quantize.run,
    Stage.export: export.run,
}
_ORDER = list(STAGES)
MACHINE = "machine.json"  # in the run folder: the CPU, and how training computed on it
UNTRAINED_IMAGES = 200  # of the validation split, for a model that is trained first
CHECKPOINT = "pruned"  # in the run folder: the last torch model, for `compress.load` and model=checkpoint


@dataclass(frozen=True)
class Result:
    """What a run leaves behind. `folder` is the run folder that README describes."""

    folder: Path
    rows: tuple[Row, ...]
    verdict: Verdict


def run(config: Config, folder: Path) -> Result:
    """Runs a recipe into `folder`, and goes on there where a run of the same config was interrupted.

    Raises:
        UserError: before any work where the config cannot work or the folder holds another run, and of a learning rate
            that is too high.
        disk.Unwritable: the disk is full, or read-only.
    """
    with run_folder.hold(folder, dump(config)) as state:
        try:
            result = _run(*_checked(config), folder, state)
        except Exception as error:
            if line := disk.problem(error, folder):
                raise disk.Unwritable(line) from error
            raise
    run_folder.link_latest(folder)
    return result


def _checked(config: Config) -> tuple[Config, Model, Costs, DataSet, TrainingSettings | None]:
    """Everything that can be wrong with a config, looked at before any work; raises UserError. The costs are those of
    the model, counted since an operator may hide its work from the count."""
    config = devices.resolve(config)
    _check_chain(config)
    Cache(CACHE).check()
    models.check_files(config.model)
    models.check_task(config.model, data.task_of(config.data.name))
    config = models.resolve(config)
    for target in config.targets or []:
        get_target(target)  # unknown names and absent packages, before hours of work
    if config.threads > (usable := usable_threads()):
        log.warning("threads=%d: this process may use %d, further ones wait for them", config.threads, usable)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    if config.data.name == data.NONE:
        model: Model = models.build(config.model)
        dataset = data.without_images(model.task, model.classes, *config.model.input)
    else:
        dataset = data.load(config.data, *config.model.input, config.seed)
        model = models.build(config.model, dataset.classes, dataset.task)
    _check_images(config, dataset)
    costs = Costs.of(model)
    for stage in (Stage.train, Stage.finetune):
        if stage in config.stages:
            finetune.check(model, config, dataset, stage.value)
    if Stage.quantize in config.stages:
        quantize.check(config, dataset)
    if Stage.prune in config.stages:
        with devices.named_by_frame_rate(config):
            prune.check_model(model, config)
    return config, model, costs, dataset, prepare(model, config, dataset)


def _run(
    config: Config,
    model: Model,
    costs: Costs,
    dataset: DataSet,
    settings: TrainingSettings | None,
    folder: Path,
    state: State,
) -> Result:
    state.at("load")
    atomic.write(folder / "config.yaml", dump(config))
    machine = {"schema_version": 1, "host": host().as_dict(), "training": settings and settings.as_dict()}
    atomic.write(folder / MACHINE, json.dumps(machine, indent=1))
    cache = Cache(CACHE, config.cache)
    context = Context(config, dataset, folder, Path(tempfile.mkdtemp()), cache, settings)
    ledger = Ledger(folder / "ledger.jsonl", folder.name)
    model, costs = _walk(model, costs, context, ledger, state)
    state.at("report")
    limit, failures = config.quantize.max_accuracy_drop, context.failures
    if context.stopped:
        verdict = stopped(context.stopped, baseline(ledger.rows), failures)
    else:
        controls = _weigh_controls(context, ledger.rows)
        verdict = judge(config.budget, limit, ledger.rows, failures, config.device, controls, context.contracts)
    round_to = config.prune.round_to if Stage.prune in config.stages else None
    also = devices.remarks(config.device, ledger.rows) + channels.remarks(model, costs.own, round_to)
    verdict = replace(verdict, remarks=(*verdict.remarks, *also))
    atomic.write(folder / "verdict.json", json.dumps(verdict.as_dict(), indent=1))
    page = report.render(folder)
    with suppress(BrokenPipeError, SystemExit):  # of rich, where a reader such as `| head` has left
        report.print_table(folder)
    log.info("report: %s", page)
    if context.stopped:
        log.error("stopped after its baseline, nothing else was done: %s force=true goes on", context.stopped.text)
    return Result(folder, tuple(ledger.rows), verdict)


def new_folder(config: Config) -> Path:
    """Where a run of this config goes when nobody says otherwise: an unfinished run's folder, or a new one."""
    return run_folder.choose(Path("outputs") / config.recipe_name, dump(config))


def _walk(model: Model, costs: Costs, context: Context, ledger: Ledger, state: State) -> tuple[Model, Costs]:
    """Runs the stages and measures what leaves each. Returns the torch model that came out, or that the graphs were
    made of, and its costs; `costs` are those of the model given."""
    stages = context.config.stages
    product: Product = model
    _weigh("load", product, costs, context, ledger, in_runtimes=_compared_in_runtimes(None, stages))
    for index, stage in enumerate(stages):
        if context.stopped:
            break
        log.info("stage %d of %d: %s", index + 1, len(stages), stage.value)
        state.at(stage.value)
        context.cached = False
        if stage is Stage.prune and not isinstance(product, Graphs | Artifacts):
            context.unpruned = product
            if Stage.train in stages:  # else it is what the user gave
                checkpoint.save(product, context.folder / reference.FOLDER)
        before, product = model, STAGES[stage](product, context)
        model = product.model if isinstance(product, Graphs | Artifacts) else product
        if model is not before:
            costs = Costs.of(model)
        if not isinstance(product, Graphs | Artifacts):
            checkpoint.save(
                product, context.folder / CHECKPOINT, reference.facts(context.config, context.unpruned, context.folder)
            )
            models.save_native(product, context.folder / CHECKPOINT)
        _weigh(stage.value, product, costs, context, ledger, in_runtimes=_compared_in_runtimes(stage, stages))
    return model, costs


def _weigh_controls(context: Context, rows: Sequence[Row]) -> list[Row]:
    """Other ways to the FLOPs of the last torch row, in a ledger of their own: they are no stage of the model."""
    if not context.config.controls:
        return []
    assert context.unpruned is not None  # _check_chain made sure that something is pruned
    flops = [row for row in rows if row.target is None][-1].flops
    ledger = Ledger(context.folder / "controls.jsonl", context.folder.name)
    for name, make in CONTROLS.items():
        log.info("control: %s", name)
        try:
            control = make(context.unpruned, flops, context)
        except UserError as error:  # the run itself is done and stays
            log.warning("control %s: %s", name, error)
            continue
        costs = Costs.of(control.model)
        threads = context.config.threads
        row = weigh_model(name, control.model, costs, control.data, threads=threads, cached=False, compared=False)
        ledger.append(row)
    return list(ledger.rows)


def _compared_in_runtimes(stage: Stage | None, stages: Sequence[Stage]) -> bool:
    """Whether the torch model that left `stage` is weighed in every runtime too.

    Two are: the baseline, which is what users deploy today, and the model that the graphs are made of, so that INT8
    compares with FP32 in the same runtime.
    """
    baseline = Stage.train if Stage.train in stages else None
    if stage is None and baseline is not None:
        return False
    graphs = [index for index, each in enumerate(stages) if each in (Stage.quantize, Stage.export)]
    tuned = stages[graphs[0] - 1] if graphs and graphs[0] > 0 else None
    return stage in (baseline, tuned)


def _weigh(stage: str, product: Product, costs: Costs, context: Context, ledger: Ledger, *, in_runtimes: bool) -> None:
    """Weighs what left a stage: one row for a torch model, one a graph for graphs and artifacts. `costs` are those of
    the torch model in it."""
    stages = context.config.stages
    model = product.model if isinstance(product, Graphs | Artifacts) else product
    untrained = stage == "load" and Stage.train in stages  # it is trained first: what it does so far matters little
    if stage == (Stage.train.value if Stage.train in stages else "load"):
        context.baseline = model
    facts: dict[str, Any] = {"threads": context.config.threads, "cached": context.cached}
    facts["compared"] = bool(stages) and not untrained  # else no other row's time is held against it

    def weigh(graphs: Iterable[Graph]) -> None:
        for graph in graphs:
            assert context.baseline is not None  # it is the first that is weighed in runtimes
            base = context.fp32_graph(context.baseline, graph.target)
            ledger.append(
                weigh_graph(stage, graph, model, costs, context.data, found=context.found, baseline=base, **facts)
            )

    if isinstance(product, Graphs | Artifacts):
        # The FP32 graphs that quantize started from were weighed when they left the stage before.
        new = [g for g in product.graphs if isinstance(product, Artifacts) or g.precision is not Precision.fp32]
        context.for_each_target(lambda target: weigh(graph for graph in new if graph.target == target))
        return
    if untrained:
        sample = context.data.validation.subset(UNTRAINED_IMAGES, context.config.seed)
        ledger.append(weigh_model(stage, model, costs, replace(context.data, validation=sample, extra={}), **facts))
        return
    ledger.append(weigh_model(stage, model, costs, context.data, baseline=context.baseline, **facts))
    if stage in ("load", "train"):
        _look_at_baseline(ledger.rows[-1], stage, context)
    if in_runtimes and not context.stopped:
        context.for_each_target(lambda target: weigh([context.fp32_graph(model, target)]))


def _look_at_baseline(row: Row, stage: str, context: Context) -> None:
    """Notes a baseline that knows nothing, and that the run stops there where stages follow."""
    remark, stages = knows_nothing(row), context.config.stages
    if remark is None:
        return
    log.warning("%s", remark.text)
    if stages and stages[-1].value != stage and not context.config.force:
        context.stopped = remark


def _check_images(config: Config, dataset: DataSet) -> None:
    """Raises UserError where a stage needs images that the data does not have."""
    gradients = config.prune.importance in NEED_GRADIENTS or config.prune.rounds > 1
    needs = {Stage.train: dataset.train, Stage.finetune: dataset.train, Stage.export: dataset.validation}
    needs |= {Stage.prune: dataset.train} if gradients else {}
    needs |= {Stage.quantize: dataset.calibration} if config.targets else {}
    for stage in config.stages:
        if stage in needs and not len(needs[stage]):
            name = "validation" if stage is Stage.export else "train"
            remedy = f"the stage {stage.value} needs images of the {name} split, and the data has none: add them"
            raise UserError("data", config.data.path or config.data.name, remedy)
    if config.data.name == data.NONE and config.targets:
        raise UserError("targets", config.targets, "without data nothing is measured in runtimes: give targets=[]")


def _check_chain(config: Config) -> None:
    """Stages in their order, each once, and the budget said once. Raises UserError."""
    places = [_ORDER.index(stage) for stage in config.stages]
    if places != sorted(set(places)):
        names = ", ".join(stage.value for stage in config.stages)
        order = ", ".join(stage.value for stage in _ORDER)
        raise UserError("stages", f"[{names}]", f"name each stage at most once and in this order: {order}")
    _ = config.budget.flops_limit  # raises for a typo
    if Stage.prune in config.stages:
        prune.check(config)
    if config.controls and not {Stage.prune, Stage.finetune} <= set(config.stages):
        raise UserError("controls", True, "they are compared with a pruned and fine-tuned model: name both stages")
