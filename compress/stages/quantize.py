"""Quantize: the INT8 graph that suits each target, calibrated on images of the training split. torch -> graphs."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from compress import atomic, targets
from compress.config import HOST, Config
from compress.data import DataSet, images
from compress.errors import UserError
from compress.product import Graph, Graphs, Model
from compress.quantization.search import Search
from compress.stages.context import Context

RECORD = "quantization.json"  # every candidate that was tried for a target, and which one was taken
FEW = 32  # calibrating on a handful of images is the classic way to lose a detector

log = logging.getLogger(__name__)


def check(config: Config, data: DataSet) -> None:
    """Raises UserError where there are too few images to calibrate on."""
    found = min(config.data.calibration_images, len(data.calibration))
    if found == 0 or (found < FEW and not config.quantize.few_images):
        remedy = f"INT8 ranges need at least {FEW} images of the training split: give more of them"
        forced = "" if found == 0 else ", or take these with quantize.few_images=true"
        raise UserError("data.calibration_images", found, remedy + forced)


def run(model: Model, context: Context) -> Graphs:
    config, record = context.config, []
    split = context.data.calibration.first(config.data.calibration_images)
    facts = {"images": len(split), "split": split.name, "data": context.data.fingerprint}

    def quantize(target: str) -> tuple[Graph, ...]:
        fp32, wanted = context.fp32_graph(model, target), targets.get(target).QUANTIZED.value
        if config.device.precisions and wanted not in config.device.precisions:
            log.info("quantize: %s does not compute in %s: %s stays as it is", config.device.name, wanted, target)
            return (fp32,)
        folder: Path = context.scratch / f"{target}-quantized"
        log.info("quantize: %s, %d calibration images", target, len(split))
        quantized, tried = _searched(fp32, model, context, folder)
        record.extend(tried)
        return fp32, dataclasses.replace(quantized, calibration={**quantized.calibration, **facts})

    pairs = context.for_each_target(quantize)
    atomic.write(context.folder / RECORD, json.dumps({"schema_version": 1, "candidates": record}, indent=1))
    return Graphs(model, tuple(graph for pair in pairs for graph in pair))


def _searched(fp32: Graph, model: Model, context: Context, folder: Path) -> tuple[Graph, list[dict[str, Any]]]:
    """The graph to hand out, and what was tried for it: nothing where there is nothing to choose."""
    config, target = context.config, targets.get(fp32.target)
    split = context.data.calibration.first(config.data.calibration_images)
    if not config.quantize.search or len(target.SCHEMES) == 1:
        return target.quantize(fp32, model, list(images(split)), folder), []
    search = Search(
        fp32, model, split, folder, config.quantize.max_accuracy_drop, 60 * config.quantize.minutes,
        threads=config.threads, timed=config.device.name == HOST,
    )  # fmt: skip
    chosen = search.run()
    return chosen.graph, [{**each.row(), "chosen": each is chosen} for each in search.tried]
