"""Quantize: the INT8 graph that suits each target, calibrated on images of the training split. torch -> graphs."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from compress import targets
from compress.data import images
from compress.product import Graph, Graphs, Model
from compress.stages.context import Context

log = logging.getLogger(__name__)


def run(model: Model, context: Context) -> Graphs:
    config = context.config
    count = min(config.data.calibration_images, len(context.data.calibration))
    calibration = list(images(context.data.calibration, limit=count))
    facts = {"images": len(calibration), "split": context.data.calibration.name, "data": context.data.fingerprint}

    def quantize(target: str) -> tuple[Graph, Graph]:
        fp32 = context.fp32_graph(model, target)
        folder: Path = context.scratch / f"{target}-int8"
        log.info("quantize: %s, %d calibration images", target, len(calibration))
        int8 = targets.get(target).quantize(fp32, model, calibration, folder)
        return fp32, dataclasses.replace(int8, calibration={**int8.calibration, **facts})

    pairs = context.for_each_target(quantize)
    return Graphs(model, tuple(graph for pair in pairs for graph in pair))
