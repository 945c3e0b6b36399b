"""OpenVINO on the CPU: NNCF's post-training quantization of the OpenVINO graph. OpenVINO rejects ONNX Runtime's QDQ
graphs. On CPUs with AMX it runs FP32 graphs in BF16, so every predictor reports the precision that was selected."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from compress.capabilities import Model
from compress.config import ExportConfig
from compress.errors import TargetFailed
from compress.host import bfloat16_forbidden
from compress.product import Graph, Precision
from compress.targets import artifact, onnx_graph, onnx_macs
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
RECURRENT = tuple(f"{kind}{form}" for kind in ("GRU", "LSTM", "RNN") for form in ("Cell", "Sequence"))
# Further operators with products: their MACs are counted, but they are not treated as layers with weights.
OTHER_PRODUCTS = ("Einsum", "ScaledDotProductAttention", "DeformableConvolution", *RECURRENT)


def convert(model: Model, folder: Path, config: ExportConfig) -> Graph:
    """Writes `folder`/model.xml and model.bin in FP32, uncompressed. Raises TargetFailed if the network cannot be
    exported, or OpenVINO cannot read it."""
    openvino = package_without_telemetry()
    path = folder / "model.xml"
    with tempfile.TemporaryDirectory() as scratch:
        source = onnx_graph.export(model, Path(scratch, "model.onnx"), config.opset)
        try:
            with _root_logger_kept():
                converted = openvino.convert_model(source)
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
    exclusions = by_module({_onnx_name(name): reason for name, reason in excluded.items()})
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
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    # OpenVINO selects bfloat16 by the CPU's features, and fails if oneDNN is restricted to older instruction sets.
    if exact or bfloat16_forbidden(os.environ):
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    source = _read(openvino, graph.path)
    try:
        with _own_signal_stack():
            compiled = openvino.Core().compile_model(source, "CPU", settings)
    except Exception as error:  # RuntimeError from C++
        raise TargetFailed(f"OpenVINO cannot compile {graph.path}: {error}") from error
    request = compiled.create_infer_request()
    float_precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    precision = "int8" if graph.precision is Precision.int8 else float_precision
    runtime = f"openvino {openvino.__version__.split('-')[0]}"  # the rest is a build number
    layers = functools.partial(_layers, source, compiled)

    def run(image: np.ndarray) -> Outputs:
        result = request.infer([image])
        return pack(result[index].copy() for index in range(len(compiled.outputs)))

    return Predictor(run, runtime, precision, "measured", layers)


def _layers(source: Any, compiled: Any) -> list[LayerMacs]:
    """MACs of every product, and whether the compiled graph, whose nodes list the operations fused, runs it in INT8."""
    executed: set[str] = set()
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        if str(info["runtimePrecision"].astype(str)) in ("i8", "u8"):
            executed.update(info["originalLayersNames"].astype(str).split(","))
    return [LayerMacs(name, macs, name in executed) for name, macs in _count_macs(source).items()]


def _count_macs(graph: Any) -> dict[str, int]:
    """{operation: MACs} of https://docs.openvino.ai/2026/documentation/openvino-ir-format/operation-sets.html that have
    products. Convolution weights are (out, in, k, k), grouped ones (groups, out, in, k, k)."""
    counted = {}
    for operation in graph.get_ops():
        kind = operation.get_type_name()
        if kind not in (*PRODUCTS, *OTHER_PRODUCTS):
            continue
        shapes = [tuple(value.get_shape()) for value in operation.input_values()]
        output, attributes = tuple(operation.output(0).get_shape()), operation.get_attributes()
        grouped = 2 if kind.startswith("Group") else 1
        if kind == "MatMul":
            macs = prod(output) * shapes[0][-2 if attributes["transpose_a"] else -1]
        elif kind == "Einsum":
            macs = onnx_macs.einsum(attributes["equation"], shapes, len(output))
        elif kind == "ScaledDotProductAttention":  # (…, queries, size), (…, keys, size), (…, keys, size of values)
            macs = prod(shapes[0][:-1]) * shapes[1][-2] * (shapes[0][-1] + shapes[2][-1])
        elif kind in RECURRENT:  # input (batch, inputs) of a cell, (batch, steps, inputs) of a sequence
            weights = 2 + kind.startswith("LSTM") + kind.endswith("Sequence")  # after input, states and lengths
            macs = prod(shapes[0][:-1]) * sum(prod(shape) for shape in shapes[weights : weights + 2])
        elif "Backprop" in kind:  # weights (in, out, k, k)
            macs = prod(shapes[0]) * prod(shapes[1][grouped:])
        else:
            macs = prod(output) * prod(shapes[2 if kind.startswith("Deformable") else 1][grouped:])
        counted[operation.friendly_name] = macs
    return counted


def _onnx_name(name: str) -> str:
    """Name in the ONNX graph. A convolution with a bias becomes two operations, and the first one gets this suffix."""
    return name.removesuffix("/WithoutBiases")
