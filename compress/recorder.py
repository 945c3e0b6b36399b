"""Measures the product of each stage, in torch and in the runtimes, and writes the rows of the ledger."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from compress import cached_graphs
from compress.budget import Remark, chance_level_remark
from compress.cache import Cache
from compress.capabilities import Model
from compress.config import Measure
from compress.ledger import Ledger, Row
from compress.measurement import reuse, roofline
from compress.measurement.rows import Costs, FileMeasurements, measure_graph, measure_model
from compress.product import Graph, Product
from compress.stages import STAGES, Context
from compress.targets import artifact
from compress.trackers import Trackers

log = logging.getLogger(__name__)

UNTRAINED_MODEL_IMAGES = 200  # of the validation split, for evaluating the loaded model if the stage train follows
LOAD = "load"  # `stage` of the loaded model's row in the ledger; not a stage of a recipe

GraphsOf = Callable[[str], Sequence[Graph]]  # returns the graphs of a target


class Recorder:
    """Measures the product of each stage and writes the rows of the ledger."""

    def __init__(self, context: Context, ledger: Ledger, trackers: Trackers) -> None:
        self.stop_reason: Remark | None = None  # why the run ends after its baseline; None if it continues
        self._context, self._ledger, self._trackers = context, ledger, trackers
        self._stages = context.config.stages
        self._baseline_stage = next((name for name in self._stages if STAGES[name].makes_baseline), LOAD)
        self.baseline: Model | None = None  # the model that rows are compared with; None before its stage has run
        self.baseline_row: Row | None = None
        self._wait = bool(self._stages)  # for other processes to finish timing; not if no latencies will be compared
        first_with_files = next((index for index, name in enumerate(self._stages) if STAGES[name].makes_files), 0)
        # Stages whose torch model is also converted to FP32 and measured in every runtime: the baseline's, and the one
        # before the first stage that makes files (if any), so that INT8 is compared with FP32 in the same runtime.
        self._in_runtimes = {self._baseline_stage, *self._stages[:first_with_files][-1:]}
        timed = len(context.data.validation) or context.config.targets
        self._roofline = roofline.of_host(context.config.threads) if timed else None
        self.reuse = reuse.Reuse(
            Cache(context.cache.root, context.cache.enabled and context.config.measure is Measure.reuse),
            reuse.conditions(context.config, context.data, context.device),
        )
        self._files: dict[str, FileMeasurements] = {}  # by file content, see `measure_graph`
        self._measured: set[Path] = set()  # paths of graphs that have a row

    def record(self, stage: str, product: Product, costs: Costs) -> Product:
        """Measures a product and writes one row per graph that has none yet or, without graphs, one for its model (with
        `costs`) and, if `stage` is in `_in_runtimes`, one per target. Sets `stop_reason` if the run must end here.
        Returns the product with the targets that could not be measured added to its `failures`."""
        context, model, dataset = self._context, product.model, self._context.data
        if stage == self._baseline_stage:
            self.baseline = model
        if product.graphs:
            new = [graph for graph in product.graphs if graph.path not in self._measured]
            return self._measure_in_runtimes(stage, product, costs, lambda name: [g for g in new if g.target == name])
        untrained = self.baseline is None  # the stage train follows: a sample of the images is enough
        if untrained:
            sample = dataset.validation.subset(UNTRAINED_MODEL_IMAGES, context.config.seed)
            dataset = replace(dataset, validation=sample, extra={})
        first = None if self.baseline is None else cached_graphs.model_key(self.baseline)
        parts = {**cached_graphs.model_key(model), "baseline": first, "sample": untrained, **_answers(product)}
        row = self.reuse.row(
            stage, parts,
            lambda: measure_model(
                stage, model, costs, dataset, threads=context.config.threads, cached=product.cached,
                baseline=self.baseline, baseline_row=self.baseline_row, wait=self._wait and not untrained,
                device=context.device, roofline=self._roofline,
            ),
        )  # fmt: skip
        self._append(row)
        if stage == self._baseline_stage:
            self.baseline_row = row
        if stage == self._baseline_stage and (remark := chance_level_remark(row)):
            log.warning("%s", remark.text)
            if self._stages and self._stages[-1] != stage and not context.config.force:
                self.stop_reason = remark
        if self.stop_reason or stage not in self._in_runtimes:
            return product
        return self._measure_in_runtimes(stage, product, costs, lambda target: [context.converter.fp32(model, target)])

    def _measure_in_runtimes(self, stage: str, product: Product, costs: Costs, graphs: GraphsOf) -> Product:
        """Writes one row per graph of every target. Returns the product with failed targets added to `failures`."""

        def measure(target: str) -> None:
            for graph in graphs(target):
                assert self.baseline is not None  # the baseline is the first model measured in runtimes
                first = self._context.converter.fp32(self.baseline, target)
                of = {"of": cached_graphs.model_key(product.model), "baseline": reuse.graph_key(first)}
                row = self.reuse.row(
                    stage, {**reuse.graph_key(graph), **of, **_answers(product)},
                    functools.partial(
                        measure_graph, stage, graph, product.model, costs, self._context.data,
                        threads=self._context.config.threads, cached=product.cached, measured=self._files,
                        baseline=first, baseline_row=self.baseline_row, wait=self._wait, roofline=self._roofline,
                    ),
                )  # fmt: skip
                self._append(row)
                self._measured.add(graph.path)
                artifact.add_thresholds(graph, self._context.folder / "artifacts" / target, row.thresholds)

        _, failures = self._context.for_each_target(product, measure)
        return replace(product, failures=failures)

    def _append(self, row: Row) -> None:
        self._ledger.append(row)
        self._trackers.row(row)


def _answers(product: Product) -> dict[str, str | None]:
    """The model whose predictions stand for labels where there are none."""
    return {"reference": None if product.reference is None else product.reference.identity}
