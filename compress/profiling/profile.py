"""Costs and latency of a model or a file on this machine, in total and per layer."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import onnx
from torch import nn

from compress import targets
from compress.devices import graph_operators
from compress.devices.operators import Operator
from compress.errors import TargetFailed
from compress.host import host
from compress.measurement import graph_cost
from compress.measurement.cost import Cost, LayerCost, Unknown
from compress.measurement.latency import time_call
from compress.measurement.roofline import WIDTHS, Roofline
from compress.models import onnx_file
from compress.product import Precision
from compress.profiling.subject import Subject
from compress.targets import openvino
from compress.targets.quantization_exclusions import module_path

SECONDS = 1.5  # duration of the timing of each runtime
DEAR_FRACTION, DEAR_RATIO = 0.01, 3.0  # see `Layer.dear`
HALF, INT8 = 16 * 32, 8 * 8  # bit operations of a MAC with weights in FP16, and of one in INT8


@dataclass(frozen=True)
class Layer:
    """Cost of the operators of one torch module, or of one operator of a graph without modules, by the types of the
    file."""

    name: str
    operators: str  # "Conv", "Sigmoid, Mul"
    output: tuple[int, ...]
    macs: int
    other_flops: int
    params: int
    bytes: int  # read and written, nothing fused
    ms: float  # by the runtime's profiler; 0: fused into another layer, or not known, see `Profile.layers_timed`
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
    # Torch modules without submodules, parameters and trainable parameters before fusing; None for files.
    modules: int | None
    net_params: int | None
    gradients: int | None
    params: int  # as deployed: BatchNorms fused
    macs: int
    other_flops: int
    bytes_moved: int
    activation_bytes: int  # of LiteRT files: of the arena of LiteRT for Microcontrollers
    activation_bytes_in_place: int  # if elementwise operators write over an input that is not needed any more
    size_bytes: int  # of the file; of a torch network, of its ONNX file
    speeds: tuple[Speed, ...]
    failures: dict[str, str]  # {runtime: why it does not run the model}
    operators: tuple[Operator, ...]  # as runtimes execute them, for predictions; none if quantized or not counted
    layers: tuple[Layer, ...]  # in order of execution; the last may be the runtime's own changes of layout
    other_by_kind: dict[str, int] = field(default_factory=dict)  # FLOPs outside products, largest first
    bit_operations: int = 0
    unknown: dict[str, int] = field(default_factory=dict)  # {operator without a formula: calls}, see `flops.Cost`
    layers_timed: bool = True  # whether a runtime tells the times of the layers

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


@dataclass(frozen=True)
class Counted:
    """A model or file with its costs, before anything is timed."""

    name: str
    subject: Subject
    cost: Cost
    operators: tuple[Operator, ...]  # see `Profile.operators`
    quantized: bool

    @property
    def unknown(self) -> dict[str, int]:
        return self.cost.unknown


def count(name: str, subject: Subject, unknown: Unknown = "error") -> Counted:
    """Counts one image. `unknown`: what to do about operators without a formula, see `graph_cost.count`. Raises
    UserError if the products cannot be counted."""
    cost = graph_cost.count(subject.graph, unknown)
    narrow = any(layer.bit_operations < HALF * layer.macs for layer in cost.layers.values())
    quantized = narrow or onnx_file.is_quantized(subject.graph)
    operators = () if cost.unknown or quantized else tuple(graph_operators.read(subject.graph))
    return Counted(name, subject, cost, operators, quantized)


def profile(counted: Counted, threads: int, roofline: Roofline) -> Profile:
    """Times one image. Raises TargetFailed if the first of the runtimes does not run it."""
    subject, cost = counted.subject, counted.cost
    integers = sum(layer.macs for layer in cost.layers.values() if layer.bit_operations <= INT8 * layer.macs)
    speeds: list[Speed] = []
    failures: dict[str, str] = {}
    for runtime, file in subject.files.items():
        try:
            precision = Precision.int8 if 2 * integers > cost.macs else file.precision
            predict = targets.load(replace(file, precision=precision), threads)
            timed = time_call(functools.partial(predict.run, subject.image), seconds=SECONDS)
        except TargetFailed as error:
            failures[runtime] = str(error)
            continue
        achieved, computed_in = 2 * cost.macs / timed.median / 1e6, predict.inference_precision
        # The bytes of quantized files are counted as they are.
        moved = cost.bytes_moved * (1.0 if counted.quantized else WIDTHS.get(computed_in, 1.0))
        roof_fraction = roofline.fraction(2 * cost.macs, moved, timed.median, computed_in)
        peak = roofline.peak_gops.get(computed_in)
        speeds.append(
            Speed(
                predict.runtime, computed_in, timed.median, timed.p95, timed.contended, achieved,
                peak and achieved / peak, roof_fraction,
            )
        )  # fmt: skip
    first = next(iter(subject.files))
    if first in failures:
        raise TargetFailed(failures[first])
    seconds = subject.operator_seconds(threads) if subject.operator_seconds else {}
    modules, net_params, gradients = (None, None, None) if subject.net is None else size_of(subject.net)
    return Profile(
        counted.name, subject.imgsz, modules, net_params, gradients, cost.params, cost.macs, cost.other_flops,
        bytes_moved=cost.bytes_moved,
        activation_bytes=subject.arena_bytes or cost.activation_bytes,
        activation_bytes_in_place=cost.activation_bytes_in_place, size_bytes=subject.size_bytes, speeds=tuple(speeds),
        failures=failures, operators=counted.operators,
        layers=tuple(_layers(subject.graph, cost.layers, seconds)), other_by_kind=cost.other_by_kind,
        bit_operations=cost.bit_operations, unknown=cost.unknown, layers_timed=bool(seconds),
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
        groups.setdefault(module_path(openvino.onnx_name(node.name)) or node.name, []).append(node)
    total_time, total_macs = sum(seconds.values()) or 1.0, sum(cost.macs for cost in costs.values())
    for name, nodes in groups.items():
        parts = [costs[node.name] for node in nodes]
        kinds = Counter[str]()
        for part in parts:
            kinds.update(part.other_by_kind)
        macs, duration = sum(part.macs for part in parts), sum(seconds.get(node.name, 0.0) for node in nodes)
        yield Layer(
            name, ", ".join(dict.fromkeys(node.doc_string or node.op_type for node in nodes)), parts[-1].output, macs,
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
