"""Explains time that pruning did not save: which layers it is in, and what would help."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto

from compress.budget import Remark
from compress.budget.selection import baseline, final_rows, recommend
from compress.capabilities import Model, Prunable
from compress.config import HOST, Config
from compress.devices import graph_operators, measured
from compress.devices.prediction import Prediction, Unknown, calibrate
from compress.errors import TargetFailed, UserError
from compress.ledger import Row
from compress.measurement import graph_cost
from compress.measurement.layer_latency import NodeSeconds, node_seconds
from compress.targets import onnx_graph, onnx_macs
from compress.targets.converter import Converter
from compress.targets.quantization_exclusions import module_path
from compress.timing_noise import speed

WORTH_SAYING = 0.5  # time saved, relative to the FLOPs saved, below which there is a remark
FEWER = 0.05  # fraction of the FLOPs that must be saved
SHARE = 0.1  # fraction of the time from which a kind of layer is named
NAMED = 3  # layers, at most
DEAR = 3.0  # a layer is named if its fraction of the time is this many times that of the FLOPs

ACTIVATIONS, DEPTHWISE, COPIES, KEPT, OTHERS, START = (
    "activation functions that are not fused", "depthwise convolutions", "copies and resizing",
    "layers that keep their channels", "operators without products", "starting the inference",
)  # fmt: skip
HELP = {
    ACTIVATIONS: "finetune.activation=relu replaces them, and runtimes compute a ReLU within the convolution",
    DEPTHWISE: "memory traffic limits them: a smaller model.imgsz, or a network without them",
    COPIES: "they have no FLOPs and move memory: a smaller model.imgsz",
    KEPT: "a smaller model.imgsz, or a network with a smaller head",
    OTHERS: "a smaller model.imgsz",
    START: "no pruning shortens it: a faster runtime, or more images per inference",
}
_COPIES = set("Concat Slice Split Transpose Resize Upsample Pad Gather Expand Tile SpaceToDepth DepthToSpace".split())

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A node of a graph, with its time."""

    module: str
    kind: str  # a key of `HELP`; empty for products of layers that can be pruned
    macs: int
    seconds: float


def remarks(
    config: Config, rows: Sequence[Row], models: tuple[Model, Model], converter: Converter,
    measure: NodeSeconds = node_seconds,
) -> list[Remark]:  # fmt: skip
    """A remark if the FLOPs of a run fell much more than its latency, measured on this machine or predicted for the
    device of the run; none if a graph cannot be read.

    Args:
        models: before and after the run.
        measure: times the nodes of a graph.
    """
    finals = final_rows(rows)
    if not finals or min(row.flops for row in finals) > (1 - FEWER) * baseline(rows).flops:
        return []
    try:
        graphs = [converter.fp32(model, "onnxruntime").path for model in models]
        on_device = config.device.name != HOST
        slow = _predicted(config, finals, graphs) if on_device else _measured(config, rows, models[1], graphs, measure)
    except (TargetFailed, UserError) as error:
        log.warning("layers cannot be compared: %s", error)
        return []
    if slow is None:
        return []
    fewer, (where, ratio, seconds) = 1 - finals[0].flops / baseline(rows).flops, slow
    if 1 - ratio >= WORTH_SAYING * fewer:
        return []
    return [_remark(parts(onnx_graph.read(graphs[1]), seconds, models[1]), where, fewer, 1 - ratio)]


def parts(graph: ModelProto, seconds: Mapping[str, float], model: Model) -> list[Part]:
    """The nodes of the graph of `model`, with the times `seconds` {node: seconds}; under "" those of no node, and under
    `START` the start of an inference."""
    kept = model.prunable()[1] if isinstance(model, Prunable) else {}
    macs = {name: layer.macs for name, layer in graph_cost.count(graph, unknown="warn").layers.items()}
    activations = graph_operators.activations(graph.graph.node)
    result = [Part("", COPIES, 0, seconds.get("", 0.0)), Part("", START, 0, seconds.get(START, 0.0))]
    for node in graph.graph.node:
        path, kind = module_path(node.name), _kind(node, activations)
        if not kind and any(f"{path}.".startswith(f"{name}.") for name in kept):
            kind = KEPT
        result.append(Part(path or node.name, kind, macs[node.name], seconds.get(node.name, 0.0)))
    return result


def _kind(node: NodeProto, activations: set[str]) -> str:
    if node.output[0] in activations:
        return ACTIVATIONS
    if not onnx_macs.has_products(node):
        return COPIES if node.op_type in _COPIES else OTHERS
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return DEPTHWISE if groups > 1 else ""


def _remark(nodes: Sequence[Part], where: str, fewer: float, saved: float) -> Remark:
    total, flops = sum(part.seconds for part in nodes), sum(part.macs for part in nodes)
    kinds, layers = defaultdict[str, float](float), defaultdict[str, list[Part]](list)
    for part in nodes:
        kinds[part.kind] += part.seconds / total
        if part.module:
            layers[part.module].append(part)
    named = sorted(((share, kind) for kind, share in kinds.items() if kind and share >= SHARE), reverse=True)
    text = [f"{fewer:.0%} fewer FLOPs save {max(saved, 0.0):.0%} of the time {where}."]
    if named:
        text.append("The time that is left:")
        text.append("; ".join(f"{kind} {share:.0%} ({HELP[kind]})" for share, kind in named) + ".")
    dear = []
    for name, group in layers.items():
        time, work = (sum(values) for values in zip(*((part.seconds / total, part.macs / flops) for part in group)))
        if time >= max(SHARE / NAMED, DEAR * work):
            dear.append((time, work, name))
    if dear := sorted(dear, reverse=True)[:NAMED]:
        listed = ", ".join(f"{name} ({time:.0%} of the time, {work:.1%} of the FLOPs)" for time, work, name in dear)
        text.append(f"Dear for their FLOPs: {listed}.")
    numbers = {"flops_saved": fewer, "time_saved": saved, **{kind: share for share, kind in named}}
    return Remark("time_not_saved", " ".join(text), numbers, lasting=True)


Slow = tuple[str, float, Mapping[str, float]]  # where, time after / before, {node after: seconds}


def _measured(
    config: Config, rows: Sequence[Row], model: Model, graphs: Sequence[Path], measure: NodeSeconds
) -> Slow | None:
    """The target with the least time saved on this machine, and the times of the nodes in ONNX Runtime."""
    ratios = {}
    for target in dict.fromkeys(row.target for row in final_rows(rows)):
        first = [row for row in rows if row.target == target and row.stage in ("load", "train")]
        if not first:
            continue
        best = recommend(final_rows(rows), target)
        contended = any(row.latency_ms is None or row.latency_ms.contended for row in (first[-1], best))
        ratio = speed(first[-1].latency_ms, best.latency_ms)
        if ratio is not None and not contended:
            ratios[f"{target}/{best.precision}"] = ratio
    if not ratios:
        return None
    where = max(ratios, key=lambda name: ratios[name])
    seconds = measure(graphs[1], model.example_input().numpy(), config.threads)
    return f"in {where} on this machine (layers by ONNX Runtime in FP32)", ratios[where], seconds


def _predicted(config: Config, finals: Sequence[Row], graphs: Sequence[Path]) -> Slow | None:
    """The recommended file of the first target, by prediction for the device of the run."""
    best = recommend(finals, finals[0].target, config.device.precisions)
    file, model = (str(best.target), best.precision), calibrate(config.device, measured.known(config.device.name))
    before, after = (graph_operators.read_named(onnx.load(path)) for path in graphs)
    totals = [model.predict([operator for _, operator in each], *file) for each in (before, after)]
    seconds = model.operator_seconds([operator for _, operator in after], *file)
    if isinstance(seconds, Unknown):
        return None
    first, last = totals
    assert isinstance(first, Prediction) and isinstance(last, Prediction)  # as known as their operators
    times = {name: float(duration) for (name, _), duration in zip(after, seconds, strict=True)}
    times[START] = max(last.ms / 1000 - sum(times.values()), 0.0)
    return f"by prediction for {config.device.name} in {'/'.join(file)}", last.ms / first.ms, times
