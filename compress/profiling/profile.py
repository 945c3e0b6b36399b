"""Costs and latency of a model on this machine, in total and per layer. Layers are those of the exported ONNX file, so
that torch networks and ONNX files are profiled alike."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from torch import nn

from compress import targets
from compress.capabilities import Model, TorchModel
from compress.config import ExportConfig
from compress.devices import graph_operators
from compress.devices.operators import Operator
from compress.errors import TargetFailed
from compress.host import host
from compress.measurement import graph_cost
from compress.measurement.cost import LayerCost, Unknown
from compress.measurement.latency import time_call
from compress.measurement.layer_latency import node_seconds
from compress.measurement.roofline import Roofline
from compress.measurement.rows import WIDTHS
from compress.models import onnx_file
from compress.product import Precision
from compress.targets.quantization_exclusions import module_path

RUNTIMES = ("onnxruntime", "openvino")
SECONDS = 1.5  # duration of the timing of each runtime
DEAR_FRACTION, DEAR_RATIO = 0.01, 3.0  # see `Layer.dear`


@dataclass(frozen=True)
class Layer:
    """Cost of the operators of one torch module, or of one node of a graph without modules; bytes for float32."""

    name: str
    operators: str  # "Conv", "Sigmoid, Mul"
    output: tuple[int, ...]
    macs: int
    other_flops: int
    params: int
    bytes: int  # read and written, nothing fused
    ms: float  # in ONNX Runtime; 0: fused into another layer
    time_fraction: float  # of all layers
    flops_fraction: float  # of the MACs of all layers
    other_by_kind: dict[str, int] = field(default_factory=dict)  # FLOPs outside products
    bit_operations: int = 0  # MACs x bits of the weights x bits of the activations

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def intensity(self) -> float:
        """Operational intensity: FLOPs, of products and others, per byte read or written."""
        return (self.flops + self.other_flops) / self.bytes if self.bytes else 0.0

    @property
    def gflops_per_second(self) -> float | None:
        return self.flops / self.ms / 1e6 if self.ms and self.macs else None

    @property
    def dear(self) -> bool:
        """Cheap in FLOPs and dear in time: at least `DEAR_FRACTION` of the time, and `DEAR_RATIO` times the fraction of
        the FLOPs."""
        return self.time_fraction >= max(DEAR_FRACTION, DEAR_RATIO * self.flops_fraction)


@dataclass(frozen=True)
class Speed:
    """Latency of one image in one runtime, in milliseconds, and what it means in FLOPS."""

    runtime: str
    precision: str  # number format that it computed in
    ms: float
    p95: float
    contended: bool
    gflops_per_second: float  # achieved: FLOPs of products / median latency
    peak_fraction: float | None  # of this machine's peak in this number format
    roof_fraction: float | None  # of what the operational intensity of the network allows


@dataclass(frozen=True)
class Profile:
    """Everything that `compress profile` measures of one model."""

    name: str
    imgsz: int
    # Torch modules without submodules, parameters and trainable parameters before fusing; None for ONNX files.
    modules: int | None
    net_params: int | None
    gradients: int | None
    params: int  # as deployed: BatchNorms fused
    macs: int
    other_flops: int
    bytes_moved: int
    activation_bytes: int
    activation_bytes_in_place: int  # if elementwise operators write over an input that is not needed any more
    size_bytes: int  # of the ONNX file that was timed
    speeds: tuple[Speed, ...]
    failures: dict[str, str]  # {runtime: why it does not run the model}
    operators: tuple[Operator, ...]  # as runtimes execute them, for predictions; none if quantized or not counted
    layers: tuple[Layer, ...]  # in order of execution; the last may be the runtime's own changes of layout
    other_by_kind: dict[str, int] = field(default_factory=dict)  # FLOPs outside products, largest first
    bit_operations: int = 0
    unknown: dict[str, int] = field(default_factory=dict)  # {operator without a formula: calls}, see `flops.Cost`

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def intensity(self) -> float:
        return (self.flops + self.other_flops) / self.bytes_moved

    def as_dict(self) -> dict[str, Any]:
        """JSON-like, with derived figures."""
        derived = ("flops", "intensity", "gflops_per_second", "dear")
        layers = [{**asdict(layer), **{name: getattr(layer, name) for name in derived}} for layer in self.layers]
        values = {name: value for name, value in asdict(self).items() if name != "operators"}
        return {**values, "flops": self.flops, "intensity": self.intensity, "layers": layers}


def profile(name: str, model: Model, threads: int, roofline: Roofline, unknown: Unknown = "error") -> Profile:
    """Counts and times a model at batch 1. `unknown`: what to do about operators without a formula, see
    `graph_cost.count`. Raises TargetFailed if the model cannot be exported to ONNX or run in ONNX Runtime, UserError if
    its products cannot be counted."""
    image, net = model.example_input().numpy(), model.net if isinstance(model, TorchModel) else None
    speeds: list[Speed] = []
    failures: dict[str, str] = {}
    with TemporaryDirectory(prefix="compress-") as scratch:
        exported = targets.get(RUNTIMES[0]).convert(model, Path(scratch), ExportConfig())
        graph, size = onnx.load(exported.path), exported.path.stat().st_size
        cost = graph_cost.count(graph, unknown)
        quantized = onnx_file.is_quantized(graph)  # its bytes are counted as they are
        integers = sum(layer.macs for layer in cost.layers.values() if layer.bit_operations <= 64 * layer.macs)
        if 2 * integers > cost.macs:
            exported = replace(exported, precision=Precision.int8)
        for runtime in RUNTIMES:
            try:
                found = exported if runtime == RUNTIMES[0] else targets.get(runtime).convert(
                    model, Path(scratch, runtime), ExportConfig()
                )  # fmt: skip
                predict = targets.load(found, threads)
            except TargetFailed as error:
                failures[runtime] = str(error)
                continue
            timed = time_call(functools.partial(predict, image), seconds=SECONDS)
            achieved, precision = 2 * cost.macs / timed.median / 1e6, predict.inference_precision
            moved = cost.bytes_moved * (1.0 if quantized else WIDTHS.get(precision, 1.0))
            roof = roofline.attainable_gops(2 * cost.macs, moved, precision)
            peak = roofline.peak_gops.get(precision)
            speeds.append(
                Speed(
                    predict.runtime, precision, timed.median, timed.p95, timed.contended, achieved,
                    peak and achieved / peak, roof and achieved / roof,
                )
            )  # fmt: skip
        seconds = node_seconds(exported.path, image, threads)
    modules, net_params, gradients = size_of(net) if net is not None else (None, None, None)
    return Profile(
        name, model.imgsz, modules, net_params, gradients, cost.params, cost.macs, cost.other_flops,
        bytes_moved=cost.bytes_moved, activation_bytes=cost.activation_bytes,
        activation_bytes_in_place=cost.activation_bytes_in_place, size_bytes=size, speeds=tuple(speeds),
        failures=failures, operators=() if cost.unknown or quantized else tuple(graph_operators.read(graph)),
        layers=tuple(_layers(graph, cost.layers, seconds)), other_by_kind=cost.other_by_kind,
        bit_operations=cost.bit_operations, unknown=cost.unknown,
    )  # fmt: skip


def size_of(net: nn.Module) -> tuple[int, int, int]:
    """Modules without submodules, parameters, and parameters that are trained, as Ultralytics' `model.info()` counts
    them."""
    parameters = list(net.parameters())
    trained = sum(each.numel() for each in parameters if each.requires_grad)
    leaves = sum(not module._modules for module in net.modules())
    return leaves, sum(each.numel() for each in parameters), trained


def _layers(graph: onnx.ModelProto, costs: dict[str, LayerCost], seconds: dict[str, float]) -> Iterator[Layer]:
    """Sums nodes by the torch module that they are from."""
    groups: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.graph.node:
        groups.setdefault(module_path(node.name) or node.name, []).append(node)
    total_time, total_macs = sum(seconds.values()), sum(cost.macs for cost in costs.values())
    for name, nodes in groups.items():
        parts = [costs[node.name] for node in nodes]
        kinds = Counter[str]()
        for part in parts:
            kinds.update(part.other_by_kind)
        macs, duration = sum(part.macs for part in parts), sum(seconds.get(node.name, 0.0) for node in nodes)
        yield Layer(
            name, ", ".join(dict.fromkeys(node.op_type for node in nodes)), parts[-1].output, macs,
            sum(part.other_flops for part in parts), sum(part.params for part in parts),
            sum(part.bytes for part in parts), 1e3 * duration, duration / total_time, macs / (total_macs or 1),
            dict(kinds.most_common()), sum(part.bit_operations for part in parts),
        )  # fmt: skip
    if inserted := seconds.get("", 0.0):
        yield Layer("", "changes of memory layout", (), 0, 0, 0, 0, 1e3 * inserted, inserted / total_time, 0.0)


def as_dict(profiles: Sequence[Profile], roofline: Roofline) -> dict[str, Any]:
    """What `--json` writes: the machine, its roofline, and every model."""
    return {
        "schema_version": 1,
        "host": host().as_dict(),
        "roofline": asdict(roofline),
        "models": [profile.as_dict() for profile in profiles],
    }
