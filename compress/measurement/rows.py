"""Measures one product after a stage and returns a ledger row."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compress import checkpoint, ledger, targets
from compress.capabilities import Evaluable, GivenAsGraph, Model, TorchModel, require
from compress.config import HOST
from compress.data import DataSet, Split, supervised
from compress.digest import digest
from compress.errors import UserError
from compress.ledger import Provenance, Row
from compress.measurement import accuracy, flops, graph_cost, latency
from compress.measurement.flops import Cost
from compress.product import Graph

TORCH_BATCH = 16  # batch size of evaluating torch models; artifacts run at batch 1, as deployed
TIMING_SECONDS = 2.0
SESSIONS = 2  # in which a file is timed in turns with the baseline

Turns = tuple[float, float, float] | None  # ratio to the baseline's time, between its 95 % bounds
ITSELF: Turns = (1.0, 1.0, 1.0)


def flops_at(model: Model, imgsz: int) -> int:
    """FLOPs of the deployed form for one square image of `imgsz` pixels.

    Raises:
        UserError: the model is an ONNX file for another size.
    """
    if isinstance(model, GivenAsGraph):
        if imgsz != model.imgsz:
            raise UserError("imgsz", imgsz, f"the graph {model.path} has a fixed input size: set {model.imgsz}")
        return graph_cost.count(model.graph).flops
    sized = model.with_imgsz(imgsz) if isinstance(model, TorchModel) else model
    return flops.count(sized.deployed(), sized.example_input()).flops


@dataclass(frozen=True)
class Costs:
    """Counted costs, the same for a torch model and every graph exported from it."""

    own: Cost  # at the model's input size
    flops_at_640: int | None  # of detectors only; None for ONNX files of another size

    @classmethod
    def of(cls, model: Model) -> Costs:
        published = model.task.published_imgsz
        if isinstance(model, GivenAsGraph):
            own = graph_cost.count(model.graph)
            return cls(own, own.flops if model.imgsz == published else None)
        own = flops.count(model.deployed(), model.example_input())
        if published is None:
            return cls(own, None)
        return cls(own, own.flops if model.imgsz == published else flops_at(model, published))


@dataclass
class Found:
    """Measurements of one file in this run. `accuracy` is None without validation images."""

    accuracy: ledger.Accuracy | None
    latency: latency.Latency | None = None
    turns: Turns = None


def measure_model(
    stage: str,
    model: Model,
    costs: Costs,
    data: DataSet,
    *,
    threads: int,
    cached: bool,
    baseline: Model | None = None,
    compared: bool = True,
) -> Row:
    """Measures a torch model in its deployed (fused) form on the CPU in float32, or an ONNX file as it is.

    Without validation images neither accuracy nor latency is measured. `size_bytes` is that of `model.safetensors` in a
    checkpoint of `model` (unfused, parameters and buffers), or that of the ONNX file. The `baseline` is timed in turns
    with `model` and may be `model` itself. `compared`: see `latency.time_call`.
    """
    if isinstance(model, GivenAsGraph):
        runtime, size = model.runtime, model.size_bytes
    else:
        runtime, size = "torch", checkpoint.tensor_file_bytes(require(model, TorchModel, "model", stage).net)
    net, example, cost = model.deployed(), model.example_input(), costs.own

    predict = accuracy.predictor(net)
    image, timed, turns = example.numpy(), None, None
    if len(data.validation):  # otherwise only counts are needed, and timing would take most of the time
        timed = latency.time_call(lambda: predict(image), seconds=TIMING_SECONDS, compared=compared)
        if baseline is not None:
            turns = ITSELF
            if baseline is not model:
                turns = _in_turns([(accuracy.predictor(baseline.deployed()), predict)], image)
    return Row(
        stage=stage,
        target=None,
        precision="fp32",
        imgsz=model.imgsz,
        macs=cost.macs,
        flops_at_640=costs.flops_at_640,
        other_flops=cost.other_flops,
        int8_mac_share=0.0,
        params=cost.params,
        size_bytes=size,
        bytes_moved=cost.bytes_moved,
        activation_bytes=cost.activation_bytes,
        accuracy=_accuracy(predict, model, data, TORCH_BATCH, f"{stage} {runtime}", "measured"),
        latency_ms=_latency(timed, turns, runtime, threads, "f32"),
        cached=cached,
    )


def measure_graph(
    stage: str,
    graph: Graph,
    model: Model,
    costs: Costs,
    data: DataSet,
    *,
    threads: int,
    cached: bool,
    found: dict[str, Found],
    baseline: Graph | None = None,
    compared: bool = True,
) -> Row:
    """Measures a target's graph, loaded from disk, in its own runtime (TensorRT without a GPU is emulated).

    Args:
        model: the model that `graph` was exported from, with its `costs`.
        found: measurements of this run, by the file's bytes and its evaluator; updated. A file in it is not evaluated
            again, even for another target. It is timed again, and the row merges both timings.
        baseline: timed in turns with `graph` in the same runtime; may be `graph` itself.
    """
    predictor, cost = targets.load(graph, threads), costs.own
    label = f"{stage} {graph.target} {graph.precision.value}"
    key = digest([predictor.evaluator, *(hashlib.sha256(file.read_bytes()).hexdigest() for file in graph.files)])
    if key not in found:
        found[key] = Found(_accuracy(predictor, model, data, 1, label, predictor.obtained))
    known = found[key]
    image = model.example_input().numpy()
    timed = turns = None
    if predictor.obtained == "measured":
        now = latency.time_call(lambda: predictor(image), seconds=TIMING_SECONDS, compared=compared)
        timed = known.latency = now.after(known.latency)
        if baseline is not None:
            pairs = ((targets.load(baseline, threads), targets.load(graph, threads)) for _ in range(SESSIONS))
            known.turns = ITSELF if baseline is graph else _merged(known.turns, _in_turns(pairs, image))
            turns = known.turns
    int8 = predictor.int8_mac_share()
    return Row(
        stage=stage,
        target=graph.target,
        precision=graph.precision.value,
        imgsz=model.imgsz,
        macs=cost.macs,
        flops_at_640=costs.flops_at_640,
        other_flops=cost.other_flops,
        int8_mac_share=int8.overall,
        int8_mac_share_obtained=int8.obtained,
        params=cost.params,
        size_bytes=targets.size_bytes(graph),
        onnx_size_bytes=targets.source_bytes(graph) if graph.engine else None,
        bytes_moved=cost.bytes_moved if graph.precision.value == "fp32" else None,
        activation_bytes=cost.activation_bytes if graph.precision.value == "fp32" else None,
        arena_bytes=None if predictor.arena_bytes is None else predictor.arena_bytes(),
        accuracy=known.accuracy and replace(known.accuracy, obtained=Provenance(predictor.obtained)),
        latency_ms=_latency(timed, turns, predictor.runtime, threads, predictor.inference_precision),
        cached=cached,
    )


def _accuracy(
    predict: Any, model: Model, data: DataSet, batch: int, label: str, obtained: str
) -> ledger.Accuracy | None:
    """None without validation images."""
    if not len(data.validation):
        return None
    decode = require(model, Evaluable, "data", "validation").decode

    def on(split: Split, label: str) -> ledger.Accuracy:
        task = supervised(split)
        result = accuracy.evaluate(predict, decode, split, task, data.classes, batch=batch, progress=label)
        return ledger.Accuracy(result.metric, result.value, result.images, result.ci95, result.map50, result.chance)

    others = {name: on(split, f"{label} {name}") for name, split in data.extra.items()}
    return replace(on(data.validation, label), obtained=Provenance(obtained), others=others)


def _in_turns(pairs: Iterable[tuple[accuracy.Predict, accuracy.Predict]], image: np.ndarray) -> Turns:
    """Time of the second of each pair for an image (1, c, s, s), divided by that of the first; merged over all pairs.

    The pairs are sessions of the same two networks. Sessions of the same file differ in speed by the placement of their
    tensors and threads, which the interval of a single pair does not show.
    """
    ratio: Turns = None
    for before, now in pairs:
        calls = {"before": functools.partial(before, image), "now": functools.partial(now, image)}
        took = latency.interleaved(calls, rounds=100, seconds=TIMING_SECONDS / 2)["now"]
        assert took.ratio is not None and took.ratio_ci95 is not None  # interleaved always compares
        ratio = _merged(ratio, (took.ratio_ci95[0], took.ratio, took.ratio_ci95[1]))
    return ratio


def _merged(first: Turns, second: Turns) -> Turns:
    if first is None or second is None:
        return first or second
    return min(first[0], second[0]), math.sqrt(first[1] * second[1]), max(first[2], second[2])


def _latency(timed: latency.Latency | None, turns: Turns, runtime: str, threads: int, precision: str) -> ledger.Latency:
    conditions: dict[str, Any] = {"runtime": runtime, "threads": threads, "batch": 1, "inference_precision": precision}
    if timed is None:
        return ledger.Latency(**conditions, obtained=Provenance.not_run)
    return ledger.Latency(
        timed.median, timed.p95, timed.runs, timed.low, timed.high, timed.cpu_wait, timed.contended,
        ratio=turns[1] if turns else None, ratio_ci95=(turns[0], turns[2]) if turns else None,
        **conditions, device=HOST, obtained=Provenance.measured,
    )  # fmt: skip
