"""Times of the layers of a network before and after pruning, for the report."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from compress import atomic
from compress.capabilities import Model
from compress.config import HOST, Config
from compress.errors import TargetFailed, UserError
from compress.measurement.latency import timing_lock
from compress.measurement.layer_latency import by_layer, node_seconds
from compress.measurement.predicted_latency import PredictedLatency
from compress.targets.converter import Converter

FILE = "layer_times.json"

log = logging.getLogger(__name__)


def write(folder: Path, config: Config, models: tuple[Model, Model], converter: Converter) -> None:
    """Writes `folder`/layer_times.json (see docs/user-guide/run-folder.md): times measured in ONNX Runtime on this
    machine, or predicted for the device of the run in its fastest file. Writes nothing if the run does not prune or
    makes no files, or if layers cannot be timed.

    Args:
        models: before and after the run.
    """
    if "prune" not in config.stages or not config.targets or models[0] is models[1]:
        return
    try:
        graphs = [converter.fp32(model, "onnxruntime").path for model in models]
        file, obtained = ("onnxruntime", "fp32"), "measured"
        if config.device.name != HOST:
            obtained = "predicted"
            file, nodes = PredictedLatency(config).node_seconds(graphs)
        else:
            images = [model.example_input().numpy() for model in models]
            with timing_lock():
                nodes = [node_seconds(*each, config.threads) for each in zip(graphs, images, strict=True)]
        before, after = (by_layer(*each) for each in zip(graphs, models, nodes, strict=True))
    except (TargetFailed, UserError) as error:
        log.info("layers are not timed: %s", error)
        return
    times = {name: [_milliseconds(before[name]), _milliseconds(after.get(name, 0.0))] for name in before}
    record = {"schema_version": 1, "device": config.device.name, "target": file[0], "precision": file[1]}
    record |= {"obtained": obtained, "milliseconds": times}
    atomic.write(folder / FILE, json.dumps(record, indent=1))


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 5)
