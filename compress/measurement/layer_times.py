"""Times of the layers of a network before and after pruning, for the report."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from compress import atomic
from compress.capabilities import Model
from compress.config import HOST, Config
from compress.errors import TargetFailed, UserError
from compress.measurement.layer_latency import NodeSeconds, by_layer, node_seconds
from compress.measurement.predicted_latency import PredictedLatency
from compress.targets.converter import Converter

FILE = "layer_times.json"

log = logging.getLogger(__name__)


def write(
    folder: Path, config: Config, models: tuple[Model, Model], converter: Converter, measure: NodeSeconds = node_seconds
) -> None:
    """Writes `folder`/layer_times.json (see docs/user-guide/run-folder.md): times measured in ONNX Runtime on this
    machine, or predicted for the device of the run in its fastest file. Writes nothing if the run does not prune or
    makes no files, or if layers cannot be timed.

    Args:
        models: before and after the run.
        measure: times the nodes of a graph.
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
            nodes = [measure(*each, config.threads) for each in zip(graphs, images, strict=True)]
        before, after = (by_layer(*each) for each in zip(graphs, models, nodes, strict=True))
    except (TargetFailed, UserError) as error:
        log.info("layers are not timed: %s", error)
        return
    times = {name: [round(1000 * seconds, 5) for seconds in pair] for name, pair in paired(before, after).items()}
    record = {"schema_version": 1, "device": config.device.name, "target": file[0], "precision": file[1]}
    record |= {"obtained": obtained, "milliseconds": times}
    atomic.write(folder / FILE, json.dumps(record, indent=1))


def paired(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Times of the same layers of two networks. Pruning may divide a layer into several with names of their own: these
    are added up, under the name of the module around them."""
    removed, added = (set(one) - set(other) for one, other in ((before, after), (after, before)))
    pairs: dict[str, tuple[float, float]] = {}
    for times, others, side in ((before, added, 0), (after, removed, 1)):
        for name, seconds in times.items():
            around = [".".join(name.split(".")[:-levels]) for levels in (1, 2)] if name in removed | added else []
            shared = (each for each in around if each and any(other.startswith(f"{each}.") for other in others))
            key = next(shared, name)
            first, last = pairs.get(key, (0.0, 0.0))
            pairs[key] = (first + seconds, last) if side == 0 else (first, last + seconds)
    return pairs
