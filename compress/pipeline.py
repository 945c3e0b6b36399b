"""The only file that knows the order: load, weigh, (stage, weigh) for each stage, judge, report."""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compress import checkpoint, data, models, report
from compress.budget import Verdict, judge
from compress.cache import Cache
from compress.config import Config, Stage, dump
from compress.errors import UserError
from compress.ledger import Ledger, Row
from compress.measure.weigh import weigh_graph, weigh_model
from compress.product import Artifacts, Graphs, Model, Precision
from compress.stages import export, finetune, prune, quantize
from compress.stages.context import Context
from compress.targets import get as get_target

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


@dataclass(frozen=True)
class Result:
    """What a run leaves behind. `folder` is the run folder that CONTRACTS describes."""

    folder: Path
    rows: tuple[Row, ...]
    verdict: Verdict


def run(config: Config, folder: Path) -> Result:
    """Runs a recipe into `folder`. Raises UserError before any work where the config cannot work."""
    _check_chain(config)
    for target in config.targets:
        get_target(target)  # unknown names and absent packages, before hours of work
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    dataset = data.load(config.data, config.model.imgsz, config.model.channels, config.seed)
    model: Model = models.build(config.model, dataset.classes, dataset.task)

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump(config))
    cache = Cache(Path("outputs/.cache"), config.cache)
    scratch = Path(tempfile.mkdtemp(prefix="compress-"))
    try:
        context = Context(config, dataset, folder, scratch, cache)
        ledger = Ledger(folder / "ledger.jsonl", folder.name)
        last = _walk(model, context, ledger)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if isinstance(last, Model) and len(config.stages) > 0:
        checkpoint.save(last, folder / "pruned")
    verdict = judge(
        config.budget, config.quantize.max_accuracy_drop, ledger.rows, context.failures, config.device.name
    )
    part = folder / "verdict.json.part"
    part.write_text(json.dumps(verdict.as_dict(), indent=1))
    os.replace(part, folder / "verdict.json")
    report.render(folder)
    return Result(folder, tuple(ledger.rows), verdict)


def link_latest(folder: Path) -> None:
    """Points `outputs/latest` at the newest run."""
    link = folder.resolve().parents[1] / "latest"
    part = link.with_name("latest.part")
    part.unlink(missing_ok=True)
    part.symlink_to(folder.resolve())
    os.replace(part, link)


def _walk(model: Model, context: Context, ledger: Ledger) -> Product:
    """The one way through the house; returns the last product."""
    compressing = any(stage in (Stage.quantize, Stage.export) for stage in context.config.stages)
    product: Product = model
    _weigh("load", product, context, ledger, in_runtimes=compressing or not context.config.stages)
    for stage in context.config.stages:
        log.info("stage %s", stage.value)
        before = product
        product = STAGES[stage](before, context)
        # The last torch model before the graphs is what INT8 is compared with, runtime by runtime.
        last_torch = isinstance(product, Model) and compressing and _next_is_graph(stage, context.config)
        _weigh(stage.value, product, context, ledger, in_runtimes=last_torch)
        context.cached = False
        if isinstance(before, Model) and not isinstance(product, Model):
            checkpoint.save(before, context.folder / "pruned")
    return product


def _weigh(stage: str, product: Product, context: Context, ledger: Ledger, in_runtimes: bool) -> None:
    """Weighs what left a stage: one row for a torch model, one a graph for graphs and artifacts."""
    facts = {"threads": context.config.threads, "cached": context.cached}
    if isinstance(product, Model):
        ledger.append(weigh_model(stage, product, context.data, **facts))
        graphs = context.for_each_target(lambda target: context.fp32_graph(product, target)) if in_runtimes else []
        model = product
    else:
        # What quantize was given was weighed after the stage before it: only what is new gets a row.
        graphs = [g for g in product.graphs if isinstance(product, Artifacts) or g.precision != Precision.fp32]
        model = product.model
    for graph in graphs:
        _weigh_target(stage, graph, model, context, ledger, facts)


def _weigh_target(stage: str, graph: Any, model: Model, context: Context, ledger: Ledger, facts: dict) -> None:
    from compress.errors import TargetFailed

    if graph.target in context.failures:
        return
    try:
        ledger.append(weigh_graph(stage, graph, model, context.data, **facts))
    except TargetFailed as error:
        log.error("target %s failed: %s", graph.target, error)
        context.failures[graph.target] = str(error)


def _next_is_graph(stage: Stage, config: Config) -> bool:
    following = config.stages[config.stages.index(stage) + 1 :]
    return bool(following) and following[0] in (Stage.quantize, Stage.export)


def _check_chain(config: Config) -> None:
    """Stages in their order, each once, and the budget said once. Raises UserError."""
    places = [_ORDER.index(stage) for stage in config.stages]
    if places != sorted(set(places)):
        names = ", ".join(stage.value for stage in config.stages)
        order = ", ".join(stage.value for stage in _ORDER)
        raise UserError("stages", f"[{names}]", f"name each stage at most once and in this order: {order}")
    if Stage.prune in config.stages:
        prune.check(config)
