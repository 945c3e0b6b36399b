"""ONNX Runtime: static INT8 in the QDQ format of its own quantizer, U8 activations and S8 per-channel weights, all
operators. Symmetric S8S8 graphs and NNCF's graphs are slower than FP32 here. So are graphs with quantized convolutions
only, because every activation function between them then needs two conversions."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from compress.capabilities import Model
from compress.config import ExportConfig
from compress.errors import TargetFailed
from compress.product import Graph, Precision
from compress.targets import artifact, onnx_graph
from compress.targets.calibration import EXTREMES, MEAN, METHODS, tensor_ranges
from compress.targets.predictor import LayerMacs, Predictor
from compress.targets.quantization_exclusions import by_module, first_layers, kept_nodes
from compress.targets.scheme import Scheme

NAME = "onnxruntime"
FLOAT = Precision.fp32
QUANTIZED = Precision.int8
_WHAT = "static QDQ: U8 asymmetric activations, S8 symmetric per-channel weights"
PRODUCTS = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
SCHEMES = (
    Scheme(f"{_WHAT}, all operators"),
    Scheme(f"{_WHAT}, all operators after the first two layers", {"float_layers": 2}),
    Scheme(f"{_WHAT}, all operators, ranges from the extremes of all images", {"ranges": EXTREMES}),
    Scheme(f"{_WHAT}, convolutions and matrix products only", {"op_types_to_quantize": PRODUCTS}, fallback=True),
    Scheme(f"{_WHAT} of 7 bits, all operators", {"reduce_range": True}, saturation_safe=True),
)
INT8_OPERATORS = {"QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"}
INT8_OPERATORS |= {"DynamicQuantizeMatMul", "QAttention"}

log = logging.getLogger(__name__)


def require() -> None:
    """Does nothing: ONNX Runtime is a core dependency."""


def convert(model: Model, folder: Path, config: ExportConfig) -> Graph:
    """Writes `folder`/model.onnx in FP32. Raises TargetFailed if the network cannot be exported."""
    return Graph(onnx_graph.export(model, folder / "model.onnx", config.opset), NAME, Precision.fp32)


def quantize(
    graph: Graph, model: Model, calibration: Sequence[np.ndarray], folder: Path,
    scheme: Scheme = SCHEMES[0], kept: Mapping[str, str] | None = None,
) -> Graph:  # fmt: skip
    """Writes `folder`/model.onnx in INT8. Raises TargetFailed as `static_qdq`."""
    from onnxruntime.quantization import QuantType

    types = {"activation_qType": QuantType.QUInt8, "weight_qType": QuantType.QInt8}
    return static_qdq(graph, model, calibration, folder, scheme, kept, **types)


def static_qdq(
    source: Graph, model: Model, calibration: Sequence[np.ndarray], folder: Path,
    scheme: Scheme, kept: Mapping[str, str] | None, **defaults: Any,
) -> Graph:  # fmt: skip
    """Quantizes `source` with ONNX Runtime's static quantizer and writes `folder`/model.onnx in the QDQ format. Raises
    TargetFailed: unreadable graph, no calibration images, or the quantizer fails.

    Args:
        scheme: its options are arguments of QDQQuantizer, and `ranges`, a key of `calibration.METHODS`, and
            `float_layers`, the number of first layers that stay in float.
        kept: see `compress.targets.Target.quantize`.
        defaults: arguments of QDQQuantizer that are not in the scheme.
    """
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    options = {**defaults, **scheme.options}
    graph, method = onnx_graph.read(source.path), options.pop("ranges", MEAN)
    nodes = onnx_graph.nodes(graph)
    excluded = first_layers(nodes, options.pop("float_layers", 0))
    excluded |= kept_nodes(nodes, {**(kept or {}), **model.quantization_exclusions()})
    settings = {
        "per_channel": True,
        "reduce_range": False,
        "tensors_range": TensorsData(CalibrationMethod.MinMax, tensor_ranges(graph, calibration, method)),
        "nodes_to_quantize": [],
        "extra_options": {},
        "nodes_to_exclude": sorted(excluded),
        "op_types_to_quantize": sorted({*QDQRegistry, *QLinearOpsRegistry}),
        **options,
    }
    with _quiet():
        try:
            quantizer = QDQQuantizer(load_model_with_shape_infer(source.path), **settings)
            quantizer.quantize_model()
        except Exception as error:  # a chain of Python passes over the graph raises exceptions of any type
            raise TargetFailed(f"ONNX Runtime cannot quantize {source.path}: {error}") from error
    quantizer.model.topological_sort()  # shape inference requires sorted nodes
    quantized, path = quantizer.model.model, folder / "model.onnx"
    onnx_graph.shrink(quantized)
    onnx_graph.save(quantized, path, model.metadata())
    record = {"images": len(calibration), "method": METHODS[method]}
    return Graph(path, source.target, Precision.int8, scheme.description, by_module(excluded), record)


@contextmanager
def _quiet() -> Iterator[None]:
    """Logs the quantizer's warnings at debug level. It warns through the root logger, about advice already followed."""

    def lower(record: logging.LogRecord) -> bool:
        if "onnxruntime" in record.pathname and record.levelno <= logging.WARNING:
            log.debug("%s", record.getMessage())
            return False
        return True

    root = logging.getLogger()
    root.addFilter(lower)
    try:
        yield
    finally:
        root.removeFilter(lower)


def package(graphs: Sequence[Graph], folder: Path, model: Model, provenance: Mapping[str, Any]) -> tuple[Graph, ...]:
    """Writes `folder`/{fp32,int8}/model.onnx, the manifest and the bench kit; returns the graphs in `folder`."""
    packed = [artifact.copy(graph, folder / graph.precision.value) for graph in graphs]
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    return artifact.finish(packed, folder, model, load, provenance, versions)


def load(graph: Graph, threads: int, *, exact: bool = False) -> Predictor:
    """Opens a graph in ONNX Runtime on the CPU. Raises TargetFailed for a missing or damaged file."""
    run = onnx_graph.runner(onnx_graph.open_session(graph.path, onnx_graph.session_options(threads)))
    precision = "int8" if graph.precision is Precision.int8 else "f32"
    return Predictor(run, f"onnxruntime {onnxruntime.__version__}", precision, "measured", lambda: layers(graph))


def layers(graph: Graph) -> list[LayerMacs]:
    """MACs of every product, and whether it runs in INT8 according to the graph as optimized by ONNX Runtime."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "optimized.onnx")
        # One level below the default: the highest level only changes layouts, and it renames nodes.
        onnx_graph.optimized(graph.path, path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
        executed = {node.name for node in onnx_graph.read(path).graph.node if node.op_type in INT8_OPERATORS}
    return onnx_graph.layers(graph.path, executed)
