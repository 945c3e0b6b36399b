"""OpenVINO on the CPU: NNCF's post-training quantization of the OpenVINO graph. OpenVINO rejects ONNX Runtime's QDQ
graphs. On CPUs with AMX it runs FP32 graphs in BF16, so every predictor reports the precision that was selected."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.capabilities import Model
from compress.config import ExportConfig
from compress.errors import TargetFailed
from compress.host import bfloat16_forbidden
from compress.product import Graph, Precision
from compress.targets import artifact, onnx_graph, openvino_operators
from compress.targets.calibration import check
from compress.targets.openvino_package import package_without_telemetry
from compress.targets.openvino_package import require as require  # the target's, called by `targets.get`
from compress.targets.predictor import LayerMacs, Predictor
from compress.targets.quantization_exclusions import Node, by_module, kept_nodes
from compress.targets.scheme import Scheme
from compress.tasks import Outputs
from compress.tasks.outputs import pack

NAME = "openvino"
FLOAT = Precision.fp32
QUANTIZED = Precision.int8
_WHAT = "NNCF post-training quantization, S8 per-channel weights"
_PERFORMANCE = "preset performance: symmetric activations, fast bias correction"
_MIXED = f"{_WHAT}, preset mixed: asymmetric activations"
SCHEMES = (
    # Without zero points the CPU plugin was 10 to 20 % faster at the same accuracy.
    Scheme(f"{_WHAT}, {_PERFORMANCE}"),
    Scheme(f"{_MIXED}, fast bias correction", {"preset": "mixed"}),
    Scheme(f"{_MIXED}, accurate bias correction", {"preset": "mixed", "fast_bias_correction": False}, fallback=True),
    Scheme(f"{_WHAT} of 7 bits, {_PERFORMANCE}", {"seven_bits": True}, saturation_safe=True),
)
PRODUCTS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")


def convert(model: Model, folder: Path, config: ExportConfig) -> Graph:
    """Writes `folder`/model.xml and model.bin in FP32, uncompressed. Raises TargetFailed if the network cannot be
    exported, or OpenVINO cannot read it."""
    openvino = package_without_telemetry()
    path = folder / "model.xml"
    with tempfile.TemporaryDirectory() as scratch:
        source = onnx_graph.export(model, Path(scratch, "model.onnx"), config.opset)
        try:
            with _root_logger_kept():
                converted = openvino.convert_model(io.BytesIO(source.read_bytes()))  # a path would be split at commas
        except Exception as error:  # OpenVINO raises RuntimeError and its own types
            raise TargetFailed(f"OpenVINO cannot convert this network: {error}") from error
        openvino.save_model(converted, path, compress_to_fp16=False)
    return Graph(path, NAME, Precision.fp32)


@contextlib.contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Restores the root logger. `convert_model` limits it to errors and filters it, and leaves that so if it fails."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters, root.handlers = filters, handlers


def quantize(
    graph: Graph, model: Model, calibration: Sequence[np.ndarray], folder: Path,
    scheme: Scheme = SCHEMES[0], kept: Mapping[str, str] | None = None,
) -> Graph:  # fmt: skip
    """Writes `folder`/model.xml and .bin in INT8. Raises TargetFailed: unreadable graph, no images, or NNCF fails."""
    check(calibration)
    openvino = package_without_telemetry()
    source = _read(openvino, graph.path)
    excluded = kept_nodes(_nodes(source), {**(kept or {}), **model.quantization_exclusions()})
    with _quiet(), _own_signal_stack():
        import nncf

        try:
            overflow_fix = nncf.OverflowFix.ENABLE if scheme.options.get("seven_bits") else None
            quantized = nncf.quantize(
                source, nncf.Dataset(calibration), subset_size=len(calibration),
                preset=nncf.QuantizationPreset(scheme.options.get("preset", "performance")),
                fast_bias_correction=scheme.options.get("fast_bias_correction", True),
                advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow_fix),
                ignored_scope=nncf.IgnoredScope(names=sorted(excluded), validate=False),
            )  # fmt: skip
        except Exception as error:  # a chain of Python passes over the graph raises exceptions of any type
            raise TargetFailed(f"NNCF cannot quantize {graph.path}: {error}") from error
    path = folder / "model.xml"
    openvino.save_model(quantized, path, compress_to_fp16=False)
    record = {"images": len(calibration), "method": "NNCF: minimum and maximum, averaged over images"}
    exclusions = by_module({onnx_name(name): reason for name, reason in excluded.items()})
    return Graph(path, NAME, Precision.int8, scheme.description, exclusions, record)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Routes NNCF's warnings to the root logger and suppresses its progress bars, which would overwrite ours."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # importing NNCF warns if CUDA is missing
    import nncf  # noqa: F401  (creates the logger that is configured here)

    logger = logging.getLogger("nncf")
    handlers, propagate, level = list(logger.handlers), logger.propagate, logger.level
    logger.handlers[:], logger.propagate = [], True
    logger.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


class _SignalStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2)."""

    _fields_ = [("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextlib.contextmanager
def _own_signal_stack() -> Iterator[None]:
    """Restores the alternate signal stack of this thread, which compiling a model for AMX replaces by one of the model.
    If models are freed in another order than compiled, a freed stack stays installed, and Ctrl-C kills the process."""
    if not sys.platform.startswith("linux"):
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def _read(openvino: Any, path: Path) -> Any:
    try:
        return openvino.Core().read_model(path)
    except Exception as error:  # RuntimeError from C++
        raise TargetFailed(f"OpenVINO cannot open {path}: {error}") from error


def _nodes(graph: Any) -> list[Node]:
    """The graph's operations for `quantization_exclusions`, without constants."""
    nodes = []
    constant: set[str] = set()
    for operation in graph.get_ordered_ops():
        name, kind = operation.friendly_name, operation.get_type_name()
        sources = [value.get_source_output().get_node().friendly_name for value in operation.inputs()]
        if kind != "Parameter" and constant.issuperset(sources):
            constant.add(name)
            continue
        parents, is_product = tuple(source for source in sources if source not in constant), kind in PRODUCTS
        weighted = is_product and len(parents) < len(sources)
        nodes.append(Node(name, parents, weighted, is_product and not weighted))
    return nodes


def package(graphs: Sequence[Graph], folder: Path, model: Model, provenance: Mapping[str, Any]) -> tuple[Graph, ...]:
    """Writes `folder`/{fp32,int8}_openvino_model/{model.xml, model.bin, metadata.yaml}, the manifest and the bench
    kit; returns the graphs in `folder`."""
    import nncf

    packed = [artifact.copy_for_ultralytics(graph, folder, model) for graph in graphs]
    versions = {"openvino": package_without_telemetry().__version__, "nncf": nncf.__version__}
    return artifact.finish(packed, folder, model, load, provenance, versions)


def load(graph: Graph, threads: int, *, exact: bool = False) -> Predictor:
    """Opens a graph in OpenVINO on the CPU. Raises TargetFailed for a missing or damaged file.

    Float layers are computed in the precision that OpenVINO selects for this CPU; in float32 with `exact`, or if
    ONEDNN_MAX_CPU_ISA excludes bfloat16. The predictor reports the precision used.
    """
    openvino = package_without_telemetry()
    source = _read(openvino, graph.path)
    compiled = _compiled(openvino, source, graph.path, _settings(threads, exact))
    request = compiled.create_infer_request()
    float_precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    precision = "int8" if graph.precision is Precision.int8 else float_precision
    runtime = f"openvino {openvino.__version__.split('-')[0]}"  # the rest is a build number
    layers = functools.partial(_layers, source, compiled)

    def run(image: np.ndarray) -> Outputs:
        result = request.infer([image])
        return pack(result[index].copy() for index in range(len(compiled.outputs)))

    return Predictor(run, runtime, precision, "measured", layers)


def _settings(threads: int, exact: bool = False) -> dict[str, Any]:
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    # OpenVINO selects bfloat16 by the CPU's features, and fails if oneDNN is restricted to older instruction sets.
    if exact or bfloat16_forbidden(os.environ):
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    return settings


def _compiled(openvino: Any, source: Any, path: Path, settings: dict[str, Any]) -> Any:
    try:
        with _own_signal_stack():
            return openvino.Core().compile_model(source, "CPU", settings)
    except Exception as error:  # RuntimeError from C++
        raise TargetFailed(f"OpenVINO cannot compile {path}: {error}") from error


def _layers(source: Any, compiled: Any) -> list[LayerMacs]:
    """MACs of every product, and whether the compiled graph, whose nodes list the operations fused, runs it in INT8."""
    executed: set[str] = set()
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        if str(info["runtimePrecision"].astype(str)) in ("i8", "u8"):
            executed.update(_fused(operation))
    graph = openvino_operators.to_onnx(source)
    return [LayerMacs(name, macs, name in executed) for name, macs in onnx_graph.products(graph).items()]


def _fused(operation: Any) -> list[str]:
    """Operations of the file that an executed node computes."""
    return str(operation.get_rt_info()["originalLayersNames"].astype(str)).split(",")


def node_seconds(path: Path, image: np.ndarray, threads: int, runs: int, warm_up: int) -> dict[str, float]:
    """{operation of the file: seconds per image}, medians of `runs` runs by OpenVINO's performance counters. The time
    of a node that computes several operations is that of the first one with products, or of the last; under "" are
    nodes that OpenVINO inserts, such as changes of the memory layout. Raises TargetFailed if OpenVINO rejects the
    file."""
    openvino = package_without_telemetry()
    source = _read(openvino, path)
    compiled = _compiled(openvino, source, path, {**_settings(threads), "PERF_COUNT": True})
    request = compiled.create_infer_request()
    durations: dict[str, list[float]] = {}
    for _ in range(warm_up + runs):
        request.infer([image])
        for each in request.profiling_info:
            durations.setdefault(each.node_name, []).append(each.real_time.total_seconds())
    kinds = {operation.friendly_name: operation.get_type_name() for operation in source.get_ops()}
    seconds: dict[str, float] = {}
    for node in compiled.get_runtime_model().get_ops():
        known = [name for name in _fused(node) if name in kinds]
        products = [name for name in known if kinds[name] in PRODUCTS]
        name = (products[:1] or known[-1:] or [""])[0]
        timed = durations.get(node.friendly_name, [])[warm_up:]  # none of nodes that run once
        seconds[name] = seconds.get(name, 0.0) + (statistics.median(timed) if timed else 0.0)
    return seconds


def onnx_name(name: str) -> str:
    """Name in the ONNX graph. A convolution with a bias becomes two operations, and the first one gets this suffix."""
    return name.removesuffix("/WithoutBiases")
