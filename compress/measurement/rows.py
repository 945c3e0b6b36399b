"""Measures a model or a graph and returns its ledger row: costs, accuracy, latency."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import torch

from compress import checkpoint, ledger, targets
from compress.capabilities import Checkpointable, Evaluable, GivenAsGraph, Model, TorchModel, require
from compress.config import HOST
from compress.data import DataSet, Split, supervised
from compress.digest import digest
from compress.errors import UserError
from compress.ledger import Provenance, Row
from compress.measurement import accuracy, end_to_end, flops, graph_cost, latency
from compress.measurement.cost import Cost
from compress.measurement.roofline import WIDTHS, Roofline
from compress.product import Graph
from compress.tasks import thresholds
from compress.tasks.thresholds import Curve
from compress.training.placement import CPU

TORCH_BATCH = 16  # batch size for evaluating torch models; graphs are evaluated at batch 1, as deployed
TIMING_SECONDS = 2.0  # duration of one timing
SESSIONS = 2  # how many times baseline and graph are loaded and timed alternately

Ratio = tuple[float, float, float] | None  # time / time of the baseline: lower 95 % bound, ratio, upper 95 % bound
SAME_AS_BASELINE: Ratio = (1.0, 1.0, 1.0)


def flops_at(model: Model, imgsz: int) -> int:
    """FLOPs of the deployed form for one image of `imgsz` pixels a side. Raises UserError for ONNX files of another."""
    if isinstance(model, GivenAsGraph) and imgsz != model.imgsz:
        raise UserError("imgsz", imgsz, f"the graph {model.path} has a fixed input size: set {model.imgsz}")
    return _count(model.with_imgsz(imgsz) if isinstance(model, TorchModel) else model).flops


def _count(model: Model) -> Cost:
    if isinstance(model, GivenAsGraph):
        return graph_cost.count(model.graph)
    return flops.count(model.deployed(), model.example_input())


@dataclass(frozen=True)
class Costs:
    """Counted costs, the same for a torch model and every graph exported from it."""

    at_imgsz: Cost  # at the model's input size
    flops_at_640: int | None  # at `task.published_imgsz`, 640 for detectors; None for other tasks or ONNX files

    @classmethod
    def of(cls, model: Model) -> Costs:
        cost, published_imgsz = _count(model), model.task.published_imgsz
        if model.imgsz == published_imgsz:
            return cls(cost, cost.flops)
        if published_imgsz is None or isinstance(model, GivenAsGraph):
            return cls(cost, None)
        return cls(cost, flops_at(model, published_imgsz))

    def after(self, model: Model, previous: Model) -> Costs:
        """The costs of `model`; these of `previous` if the models differ only in their weights."""
        if not (isinstance(model, Checkpointable) and isinstance(previous, Checkpointable)):
            return Costs.of(model)
        same = model.constructor() == previous.constructor() and _shapes(model) == _shapes(previous)
        return self if same else Costs.of(model)


def _shapes(model: Checkpointable) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.net.state_dict().items()}


@dataclass
class FileMeasurements:
    """Measurements of one file in this run. `accuracy` is None without validation images."""

    accuracy: ledger.Accuracy | None
    curve: Curve | None = None
    latency: latency.Latency | None = None
    ratio: Ratio = None
    end_to_end: ledger.EndToEnd | None = None


def measure_model(
    stage: str,
    model: Model,
    costs: Costs,
    data: DataSet,
    *,
    threads: int,
    cached: bool,
    baseline: Model | None = None,
    baseline_row: Row | None = None,
    wait: bool = True,
    device: torch.device = CPU,
    roofline: Roofline | None = None,
) -> Row:
    """Measures a torch model in its deployed form in float32, or an ONNX file as it is. The latency is that of the CPU.

    Without validation images, neither accuracy nor latency is measured. `size_bytes` of the row is the size of the ONNX
    file, or of `model.safetensors` in a checkpoint of the model before it is fused. Raises UserError if the model has
    no capability that the measurement needs.

    Args:
        threads: that torch uses; recorded in the row.
        cached: whether the stage's product came from the cache; recorded in the row.
        device: computes the predictions for the accuracy of a torch model.
        baseline: timed alternately with `model`. If it is `model` itself, the ratio is 1; if None, none is recorded.
        baseline_row: row of the baseline, for `thresholds`; None if `model` is the baseline, or there is none.
        wait: wait while another process is timing, for a latency that is compared with other latencies.
        roofline: that of this machine, for `roof_fraction`.
    """
    if isinstance(model, GivenAsGraph):
        runtime, size = model.runtime, model.size_bytes
    else:
        runtime, size = "torch", checkpoint.tensor_file_bytes(require(model, TorchModel, "model", stage).net)
    net, image, cost = model.deployed(), model.example_input().numpy(), costs.at_imgsz
    predict = accuracy.predictor(net)
    timed = ratio = None
    if len(data.validation):  # otherwise only counts are needed, and timing would take most of the time
        timed = latency.time_call(lambda: predict(image), seconds=TIMING_SECONDS, wait=wait)
        if baseline is not None:
            ratio = SAME_AS_BASELINE
            if baseline is not model:
                ratio = _alternating_ratio([(accuracy.predictor(baseline.deployed()), predict)], image)
    predict = accuracy.predictor(net, CPU if isinstance(model, GivenAsGraph) else device)  # after it was timed
    scored, curve = _accuracy(predict, model, data, TORCH_BATCH, f"{stage} {runtime}", "measured")
    return Row(
        stage, None, "fp32", imgsz=model.imgsz, macs=cost.macs, flops_at_640=costs.flops_at_640,
        other_flops=cost.other_flops, int8_mac_share=0.0, params=cost.params, size_bytes=size,
        bytes_moved=cost.bytes_moved, activation_bytes=cost.activation_bytes,
        accuracy=scored, thresholds=_thresholds(scored, curve, baseline_row),
        latency_ms=_latency(timed, ratio, runtime, threads, "f32"),
        roof_fraction=_roof_fraction(cost, timed, "f32", roofline), energy_mj=_energy(timed), cached=cached,
    )  # fmt: skip


def measure_graph(
    stage: str,
    graph: Graph,
    model: Model,
    costs: Costs,
    data: DataSet,
    *,
    threads: int,
    cached: bool,
    measured: dict[str, FileMeasurements],
    baseline: Graph | None = None,
    baseline_row: Row | None = None,
    wait: bool = True,
    roofline: Roofline | None = None,
) -> Row:
    """Measures a target's graph, loaded from disk, in its own runtime (TensorRT without a GPU is emulated).

    Latency is measured even without validation images, but not if the runtime is emulated. Raises TargetFailed if the
    graph cannot be loaded.

    Args:
        model: the model that `graph` was exported from, with its `costs`.
        threads, cached, baseline_row, wait, roofline: as in `measure_model`.
        measured: measurements of this run by digest of the file's bytes and the runtime; this call adds to it. A file
            that was measured before is not evaluated again, even for another target. It is timed again, and the row
            merges both timings.
        baseline: timed alternately with `graph` in the same runtime. If it is `graph` itself, the ratio is 1.
    """
    predictor, cost = targets.load(graph, threads), costs.at_imgsz
    label = f"{stage} {graph.target} {graph.precision.value}"
    key = digest([predictor.evaluator, *(hashlib.sha256(file.read_bytes()).hexdigest() for file in graph.files)])
    if key not in measured:
        measured[key] = FileMeasurements(*_accuracy(predictor, model, data, 1, label, predictor.obtained))
    entry = measured[key]
    image = model.example_input().numpy()
    timed = ratio = None
    if predictor.obtained == "measured":
        latest = latency.time_call(lambda: predictor(image), seconds=TIMING_SECONDS, wait=wait)
        timed = entry.latency = latest.merged_with(entry.latency)
        if baseline is not None:
            pairs = ((targets.load(baseline, threads), targets.load(graph, threads)) for _ in range(SESSIONS))
            ratio = SAME_AS_BASELINE if baseline is graph else _merged(entry.ratio, _alternating_ratio(pairs, image))
            entry.ratio = ratio
        if len(data.validation):
            decode = require(model, Evaluable, "data", "validation").decode
            entry.end_to_end = end_to_end.time_images(predictor, decode, data.validation, wait=wait)
    fp32 = graph.precision.value == "fp32"  # bytes are counted for float32 tensors; other precisions move fewer
    return Row(
        stage, graph.target, graph.precision.value, imgsz=model.imgsz, macs=cost.macs, flops_at_640=costs.flops_at_640,
        other_flops=cost.other_flops, int8_mac_share=predictor.int8_mac_share(),
        int8_mac_share_obtained=predictor.layers_obtained, params=cost.params, size_bytes=targets.size_bytes(graph),
        onnx_size_bytes=targets.source_bytes(graph) if graph.engine else None,
        bytes_moved=cost.bytes_moved if fp32 else None, activation_bytes=cost.activation_bytes if fp32 else None,
        arena_bytes=None if predictor.arena_bytes is None else predictor.arena_bytes(),
        accuracy=entry.accuracy and replace(entry.accuracy, obtained=Provenance(predictor.obtained)),
        thresholds=_thresholds(entry.accuracy, entry.curve, baseline_row),
        latency_ms=_latency(timed, ratio, predictor.runtime, threads, predictor.inference_precision),
        end_to_end_ms=entry.end_to_end if timed else None,
        roof_fraction=_roof_fraction(cost, timed, predictor.inference_precision, roofline), energy_mj=_energy(timed),
        cached=cached,
    )  # fmt: skip


def _accuracy(
    predict: accuracy.Predict, model: Model, data: DataSet, batch: int, label: str, obtained: str
) -> tuple[ledger.Accuracy | None, Curve | None]:
    """Accuracy on the validation split, with that on the extra splits in `others`; None without validation images. And
    precision and recall on the validation split, if the metric computes them."""
    if not len(data.validation):
        return None, None
    decode = require(model, Evaluable, "data", "validation").decode

    def evaluate(split: Split, label: str) -> tuple[ledger.Accuracy, Curve | None]:
        task = supervised(split)
        result = accuracy.evaluate(predict, decode, split, task, data.classes, batch=batch, progress=label)
        confusion = () if result.confusion is None else tuple(map(tuple, result.confusion.tolist()))
        scored = ledger.Accuracy(
            result.metric, result.value, result.images, result.ci95, result.map50, result.chance, result.details,
            result.per_class, confusion,
        )  # fmt: skip
        return scored, result.curve

    others = {name: evaluate(split, f"{label} {name}")[0] for name, split in data.extra.items()}
    scored, curve = evaluate(data.validation, label)
    return replace(scored, obtained=Provenance(obtained), others=others), curve


def _thresholds(
    scored: ledger.Accuracy | None, curve: Curve | None, baseline: Row | None
) -> Mapping[str, ledger.Thresholds]:
    """Confidence thresholds compared with those of the baseline; its own ones if `baseline` is None."""
    if scored is None or curve is None:
        return {}
    if baseline is None:
        return thresholds.of_baseline(curve, agreement=scored.is_agreement)
    return thresholds.compared(curve, baseline.thresholds, agreement=scored.is_agreement)


def _energy(timed: latency.Latency | None) -> ledger.Energy | None:
    """Energy of the CPU packages for one image, unless other programs used them too."""
    if timed is None or timed.energy_mj is None or timed.contended:
        return None
    return ledger.Energy(timed.energy_mj, Provenance.measured, "RAPL, CPU packages only")


def _roof_fraction(
    cost: Cost, timed: latency.Latency | None, precision: str, roofline: Roofline | None
) -> float | None:
    """Achieved FLOPS divided by those that the machine's roofline allows for this network; None if it was not timed."""
    if timed is None or roofline is None:
        return None
    return roofline.fraction(cost.flops, cost.bytes_moved * WIDTHS.get(precision, 1.0), timed.median, precision)


def _alternating_ratio(pairs: Iterable[tuple[accuracy.Predict, accuracy.Predict]], image: np.ndarray) -> Ratio:
    """Ratio of the time of the second of each pair to that of the first, for an image (1, c, s, s), over all pairs.

    The pairs are sessions of the same two networks. Sessions of one file differ in speed because tensors and threads
    are placed differently, which the interval of one session does not include.
    """
    ratio: Ratio = None
    for baseline, network in pairs:
        calls = {"baseline": functools.partial(baseline, image), "network": functools.partial(network, image)}
        timing = latency.interleaved(calls, rounds=100, seconds=TIMING_SECONDS / 2)["network"]
        assert timing.ratio is not None and timing.ratio_ci95 is not None  # interleaved always compares
        ratio = _merged(ratio, (timing.ratio_ci95[0], timing.ratio, timing.ratio_ci95[1]))
    return ratio


def _merged(first: Ratio, second: Ratio) -> Ratio:
    """The interval that includes both, which is conservative, and the geometric mean of both ratios."""
    if first is None or second is None:
        return first or second
    return min(first[0], second[0]), math.sqrt(first[1] * second[1]), max(first[2], second[2])


def _latency(timed: latency.Latency | None, ratio: Ratio, runtime: str, threads: int, precision: str) -> ledger.Latency:
    conditions: dict[str, Any] = {"runtime": runtime, "threads": threads, "batch": 1, "inference_precision": precision}
    if timed is None:
        return ledger.Latency(**conditions, obtained=Provenance.not_run)
    return ledger.Latency(
        timed.median, timed.p95, timed.runs, timed.low, timed.high, timed.cpu_wait, timed.contended,
        ratio=ratio[1] if ratio else None, ratio_ci95=(ratio[0], ratio[2]) if ratio else None,
        **conditions, device=HOST, obtained=Provenance.measured, drift=timed.drift, celsius=timed.celsius,
        throttled=timed.throttled, measured_at=datetime.now().astimezone().isoformat(timespec="seconds"),
    )  # fmt: skip
