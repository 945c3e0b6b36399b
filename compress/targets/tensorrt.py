"""TensorRT: symmetric INT8 Q/DQ, FP16, and engines built with TensorRT-RTX, which needs no GPU for building. It rejects
asymmetric U8 activations, which ONNX Runtime prefers. Engines are run, timed and evaluated on a GPU if there is one;
otherwise ONNX Runtime emulates accuracy: it evaluates the same ONNX file and computes each Q/DQ pair as written."""

from __future__ import annotations

import functools
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from compress.capabilities import Model
from compress.config import ExportConfig
from compress.errors import MissingExtra, TargetFailed
from compress.product import ENGINE, Graph, Precision
from compress.targets import artifact, onnx_graph
from compress.targets.bench_kit import runtime_tensorrt
from compress.targets.calibration import EXTREMES
from compress.targets.onnxruntime import PRODUCTS, static_qdq
from compress.targets.predictor import LayerMacs, Predictor
from compress.targets.scheme import Scheme

NAME = "tensorrt"
AMPERE = (8, 0)  # compute capability of the oldest generation that TensorRT-RTX supports
FLOAT = Precision.fp16
QUANTIZED = Precision.int8
_WHAT = "static Q/DQ: S8 symmetric activations, S8 symmetric per-channel weights stored as INT8"
SCHEMES = (Scheme(_WHAT), Scheme(f"{_WHAT}, ranges from the extremes of all images", {"ranges": EXTREMES}))

log = logging.getLogger(__name__)


def require() -> None:
    """Raises MissingExtra if TensorRT-RTX is not installed."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        raise MissingExtra("targets", "tensorrt-rtx-cu13", NAME)


def convert(model: Model, folder: Path, config: ExportConfig) -> Graph:
    """Writes `folder`/model.onnx in FP32, for INT8 and FP16. Raises TargetFailed if the network cannot be exported."""
    return Graph(onnx_graph.export(model, folder / "model.onnx", config.opset), NAME, Precision.fp32)


def quantize(
    graph: Graph, model: Model, calibration: Sequence[np.ndarray], folder: Path,
    scheme: Scheme = SCHEMES[0], kept: Mapping[str, str] | None = None,
) -> Graph:  # fmt: skip
    """Writes `folder`/model.onnx in INT8, and verifies that TensorRT can parse it. Raises TargetFailed as `static_qdq`,
    or if TensorRT rejects the result."""
    from onnxruntime.quantization import QuantType

    # Only products get Q/DQ pairs: TensorRT fuses activation functions into them, and a pair it cannot fuse costs time.
    int8 = static_qdq(
        graph, model, calibration, folder, scheme, kept,
        activation_qType=QuantType.QInt8, weight_qType=QuantType.QInt8, op_types_to_quantize=PRODUCTS,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )  # fmt: skip
    parse(int8.path)
    return int8


def half(graph: Graph, model: Model, folder: Path) -> Graph:
    """Writes `folder`/model.onnx with weights and arithmetic in FP16; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one warning per weight below FP16's smallest value
        converted = convert_float_to_float16(onnx_graph.read(graph.path), keep_io_types=True)
    path = folder / "model.onnx"
    onnx_graph.save(converted, path, model.metadata())
    parse(path)
    return Graph(path, NAME, Precision.fp16, "weights and activations in FP16")


def package(graphs: Sequence[Graph], folder: Path, model: Model, provenance: Mapping[str, Any]) -> tuple[Graph, ...]:
    """Writes `folder`/{fp16,int8}/{model.onnx, model.engine, build.sh}, the manifest and the bench kit; returns the
    graphs in `folder`. FP32 graphs are shipped as FP16 only. Raises TargetFailed if TensorRT rejects a graph."""
    packed = [
        half(graph, model, folder / "fp16")
        if graph.precision is Precision.fp32
        else artifact.copy(graph, folder / graph.precision.value)
        for graph in graphs
    ]
    for graph in packed:
        build(graph.path, graph.path.with_name(ENGINE))
        _write_build_script(graph)
    trt: Any = importlib.import_module("tensorrt_rtx")
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "tensorrt_rtx": trt.__version__}
    return artifact.finish(packed, folder, model, load, provenance, versions)


def _write_build_script(graph: Graph) -> None:
    weakly_typed = "--fp16 --int8" if graph.precision is Precision.int8 else "--fp16"
    script = graph.path.with_name("build.sh")
    script.write_text(
        "#!/bin/sh\n"
        "# Builds the engine for this device with trtexec (part of JetPack on a Jetson). The ONNX file sets types.\n"
        "# model.engine is for TensorRT-RTX on desktop and workstation GPUs.\n"
        'cd "$(dirname "$0")" || exit 1\n'
        'PATH="$PATH:/usr/src/tensorrt/bin"\n'
        "types=--stronglyTyped\n"
        "# TensorRT 8 lacks this option and needs the types that it may use.\n"
        f"trtexec --help | grep -q stronglyTyped || types='{weakly_typed}'\n"
        "trtexec --onnx=model.onnx --saveEngine=model.plan $types\n",
        encoding="utf-8",
    )
    script.chmod(0o755)


def parse(path: Path) -> tuple[Any, Any]:
    """Parses an ONNX file with TensorRT-RTX; returns its builder and network. Raises TargetFailed if the parser rejects
    the file; the message names the node."""
    require()
    trt: Any = importlib.import_module("tensorrt_rtx")
    builder = trt.Builder(_logger())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, _logger())
    if not parser.parse_from_file(str(path)):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise TargetFailed(f"TensorRT rejects {path}: {reasons}")
    return builder, network


def build(path: Path, engine: Path) -> None:
    """Writes a TensorRT-RTX engine for an ONNX file. The GPU that loads it completes the compilation. Raises
    TargetFailed if TensorRT rejects the file or cannot build an engine for it.

    The engine therefore contains the CUDA source of each fused kernel: 13.9 of 17.2 MB of drone_nano's INT8 engine, and
    4.3 of 9.3 MB in FP16, although INT8 halves the weights. Compressed, the engines have 3.5 and 4.8 MB. Stripping
    weights (STRIP_PLAN, REFIT) needs a GPU. Engines that trtexec builds on a Jetson contain machine code.
    """
    builder, network = parse(path)
    if (serialized := builder.build_serialized_network(network, builder.create_builder_config())) is None:
        raise TargetFailed(f"TensorRT cannot build an engine for {path}")
    engine.write_bytes(bytes(serialized))


@functools.cache  # must stay alive: TensorRT keeps a raw pointer to the first logger it receives
def _logger() -> Any:
    trt: Any = importlib.import_module("tensorrt_rtx")

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def log(self, severity: Any, message: str) -> None:
            # The parser reports errors to the caller, so the log needs them at debug level only.
            log.debug("%s: %s", severity, message)

    return Logger()


def load(graph: Graph, threads: int, *, exact: bool = False) -> Predictor:
    """Opens a graph's engine on the GPU; latencies include the copies to and from it. Without a GPU, opens the ONNX
    file in ONNX Runtime, which emulates TensorRT for accuracy only, not for latency. Raises TargetFailed for a missing
    or damaged file, or an engine that this GPU cannot run."""
    return _on_gpu(graph) if gpu_is_present() else _emulated(graph, threads)


def gpu_is_present() -> bool:
    """True if this machine has a GPU that TensorRT-RTX supports."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= AMPERE


def _on_gpu(graph: Graph) -> Predictor:
    engine = graph.path.with_name(ENGINE)
    if not engine.exists():
        build(graph.path, engine)
    guarded = _exit_as_failure(engine)  # as a decorator
    predict, runtime, _ = guarded(runtime_tensorrt.load)(graph.path, None)
    precision = {Precision.fp32: "tf32", Precision.fp16: "f16", Precision.int8: "int8"}[graph.precision]
    return Predictor(guarded(predict), runtime, precision, "measured", lambda: layers(graph), layers_obtained="graph")


@contextmanager
def _exit_as_failure(engine: Path) -> Iterator[None]:
    """Converts the SystemExit that the bench kit raises on errors to TargetFailed."""
    try:
        yield
    except SystemExit as error:
        raise TargetFailed(f"{engine} does not run on this GPU: {error}") from error


def _emulated(graph: Graph, threads: int) -> Predictor:
    options = onnx_graph.session_options(threads)
    # Fused INT8 kernels saturate on some CPUs and round differently from TensorRT, so Q/DQ pairs are not fused.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    run = onnx_graph.runner(onnx_graph.open_session(graph.path, options))
    precision = {Precision.fp32: "f32", Precision.fp16: "f16", Precision.int8: "int8"}[graph.precision]
    runtime = f"onnxruntime {onnxruntime.__version__}"
    # Without Q/DQ pairs the entry above has no effect: the target onnxruntime computes the same outputs.
    same_as = "" if graph.precision is Precision.int8 else f"{runtime} {precision}"
    return Predictor(
        run, f"{runtime} in place of tensorrt", precision, "emulated",
        layers=lambda: layers(graph), layers_obtained="graph", computed_by=same_as,
    )  # fmt: skip


def layers(graph: Graph) -> list[LayerMacs]:
    """MACs of every product of an INT8 graph. TensorRT runs it in INT8 if DequantizeLinear produces both operands."""
    if graph.precision is not Precision.int8:
        return []
    model = onnx_graph.read(graph.path)
    dequantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    int8 = {node.name for node in model.graph.node if all(name in dequantized for name in node.input[:2])}
    return onnx_graph.layers(graph.path, int8)
