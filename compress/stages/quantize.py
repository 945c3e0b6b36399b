"""Quantizes the model for each target, calibrated on images of the training split. torch -> graphs."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress import atomic, cached_graphs, targets
from compress.capabilities import Evaluable, require
from compress.config import HOST, Config
from compress.data import DataSet, Split, images
from compress.errors import UserError
from compress.product import Graph, Precision, Product
from compress.quantization.search import Search
from compress.stages.context import Context
from compress.stages.stage import Stage
from compress.targets import artifact, saturation
from compress.targets.scheme import ordered

NAME = "quantize"
VERSION = 1  # of the computation, for the cache
RECORD = "quantization.json"  # candidates of each target, and the selected one
FEW = 32  # calibration on fewer images often ruins a detector

log = logging.getLogger(__name__)


def check(product: Product, config: Config, data: DataSet) -> None:
    """Raises UserError if there are too few images to calibrate on."""
    available = min(config.data.calibration_images, len(data.calibration))
    int8_targets = [target for target in config.targets or [] if _precision(target, config) is Precision.int8]
    if int8_targets and (available == 0 or (available < FEW and not config.quantize.few_images)):
        remedy = f"INT8 ranges need at least {FEW} images of the training split: use more"
        override = "" if available == 0 else ", or set quantize.few_images=true"
        raise UserError("data.calibration_images", available, remedy + override)


def _precision(target: str, config: Config) -> Precision | None:
    """The precision that a target's graph is quantized to; None if the device does not support it."""
    precision = targets.get(target).QUANTIZED
    return None if config.device.precisions and precision.value not in config.device.precisions else precision


def run(product: Product, context: Context) -> Product:
    """Returns the product with the FP32 and the quantized graph of each target."""
    config, record, sensitivity = context.config, [], dict[str, float]()
    model = require(product.model, Evaluable, "stages", NAME)
    split = context.data.calibration.subset(config.data.calibration_images, config.seed)
    calibration = functools.cache(lambda: list(images(split)))  # read once, for the first target

    def quantize(target: str) -> tuple[Graph, ...]:
        fp32, precision = context.converter.fp32(model, target), _precision(target, config)
        folder: Path = context.scratch / f"{target}-quantized"
        if precision is None:
            log.info("quantize: %s supports no lower precision in %s", config.device.name, target)
            return (fp32,)
        if precision is not Precision.int8:
            log.info("quantize: %s, to %s", target, precision.value)
            return fp32, targets.get(target).quantize(fp32, model, [], folder)
        log.info("quantize: %s, %d calibration images", target, len(split))

        def search(entry: Path) -> cached_graphs.Made:
            int8, values = _search(fp32, model, split, calibration(), context, folder)
            images_used = {"images": len(split), "split": split.name, "data": context.data.fingerprint}
            int8 = dataclasses.replace(int8, calibration={**int8.calibration, **images_used})
            return [artifact.copy(int8, entry)], values

        parts = {**_inputs(product, context), **cached_graphs.model_key(model), "target": target}
        (int8,), values, was_cached = cached_graphs.fetch(
            context.cache, NAME, parts, search, context.scratch / f"{target}-int8",
            lambda values: not values["contended"],
        )  # fmt: skip
        record.extend(values["candidates"])
        sensitivity.update(values.get("sensitivity", {}))  # the same for every target; absent in older entries
        cached.append(was_cached)
        return fp32, int8

    cached: list[bool] = []
    made, failures = context.for_each_target(product, quantize)
    content = {"schema_version": 1, "candidates": record, "sensitivity": sensitivity}
    atomic.write(context.folder / RECORD, json.dumps(content, indent=1))
    graphs = tuple(graph for each in made for graph in each)
    return dataclasses.replace(product, graphs=graphs, failures=failures, cached=bool(cached) and all(cached))


def _inputs(product: Product, context: Context) -> dict[str, Any]:
    """What the search depends on beside model and target."""
    config = dataclasses.asdict(context.config)
    names = ("quantize", "export", "data", "metric", "task", "device", "seed", "threads")
    answers = None if context.config.data.labels else product.reference and product.reference.identity
    used = {name: config[name] for name in names}
    return {"version": VERSION, "answers": answers, "fingerprint": context.data.fingerprint, **used}


def _saturates(target: str, config: Config) -> bool:
    """True if INT8 sums saturate in a target's runtime on the device; measured if that is this machine."""
    saturates = config.device.int8_saturates
    if saturates is None and config.device.name == HOST:
        saturates = saturation.saturates(target)
    if saturates:
        log.info("quantize: INT8 sums saturate in %s on %s: trying 7-bit weights first", target, config.device.name)
    return bool(saturates)


def _search(
    fp32: Graph, model: Evaluable, split: Split, calibration: Sequence[np.ndarray], context: Context, folder: Path
) -> tuple[Graph, dict[str, Any]]:
    """Returns the selected INT8 graph and, as JSON values, the candidates (none without a search), the sensitivity of
    the layers if it was computed, and whether other programs used the CPU while latencies decided."""
    config = context.config
    saturates, portable = _saturates(fp32.target, config), config.quantize.portable
    if not config.quantize.search:
        target = targets.get(fp32.target)
        first = ordered(target.SCHEMES, saturates=saturates, portable=portable)[0]
        return target.quantize(fp32, model, calibration, folder, first), {"candidates": [], "contended": False}
    search = Search(
        fp32, model, split, calibration, folder, config.quantize.max_accuracy_drop, 60 * config.quantize.minutes,
        threads=config.threads, timed=config.device.name == HOST, saturates=saturates, portable=portable,
        device=context.device,
    )  # fmt: skip
    chosen = search.run()
    candidates = [{**each.row(), "chosen": each is chosen} for each in search.tried]
    values = {"candidates": candidates, "sensitivity": search.sensitivity, "contended": search.contended}
    return chosen.graph, values


STAGE = Stage(
    NAME, run, check=check, images=lambda config: ("calibration",) if config.targets else (), makes_files=True
)
