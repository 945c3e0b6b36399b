"""LiteRT, TensorFlow Lite's successor: Android phones and microcontrollers; on this CPU XNNPACK computes its files.

`litert_torch` converts from torch itself, not from ONNX; `ai_edge_quantizer` then makes static INT8. Files take and
give float32 as every target's do. Images come as (1, c, s, s) too: LiteRT wants channels last, and the one transpose
before the first convolution costs 0.3 ms of drone_nano's 6.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compress.capabilities import Model
from compress.config import ExportConfig
from compress.errors import MissingExtra, TargetFailed
from compress.product import Graph, Precision
from compress.targets import artifact, quantization_exclusions
from compress.targets.calibration import EXTREMES, MEAN, METHODS, check, ranges_of
from compress.targets.onnx_graph import INPUT
from compress.targets.predictor import LayerMacs, Predictor
from compress.targets.scheme import Scheme

NAME = "litert"
QUANTIZED = Precision.int8
_WHAT = "static: S8 asymmetric activations, S8 symmetric per-channel weights, all operators"
SCHEMES = (
    Scheme(_WHAT),
    Scheme(f"{_WHAT}, ranges of the most extreme images", {"ranges": EXTREMES}),
)
PACKAGES = {
    "litert_torch": "litert-torch",
    "ai_edge_litert": "ai-edge-litert",
    "ai_edge_quantizer": "ai-edge-quantizer",
}
# Of each product: which input is the data, and which the weights (or the second factor).
PRODUCTS = {"CONV_2D": (0, 1), "DEPTHWISE_CONV_2D": (0, 1), "FULLY_CONNECTED": (0, 1), "BATCH_MATMUL": (0, 1)}
PRODUCTS |= {"TRANSPOSE_CONV": (2, 1)}


def require() -> None:
    """Raises MissingExtra where the converter, the quantizer or the runtime is absent."""
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise MissingExtra("targets", package, NAME)


def convert(model: Model, folder: Path, config: ExportConfig) -> Graph:
    """Writes `folder`/model.tflite in FP32. A detector's graph that would pick by value gives all rows instead:
    phones' accelerators do not pick, and `Graph.postprocess` does it in NumPy.

    Raises:
        TargetFailed: the network cannot be converted.
    """
    net, example = model.deployed(postprocess=False), model.example_input()
    path = folder / "model.tflite"
    folder.mkdir(parents=True, exist_ok=True)
    _show_places(net)
    with _quiet():
        import litert_torch

        try:
            litert_torch.convert(net, (example,)).export(str(path))
        except Exception as error:  # anything: torch's export, then a chain of compiler passes
            raise TargetFailed(f"LiteRT cannot convert this network: {error}") from error
    _rename(path)
    return Graph(path, NAME, Precision.fp32, postprocess=model.postprocess)


def _show_places(net: nn.Module) -> None:
    """Has every module of `net` show its path where the converter writes class names, in place.

    Names in the file are made of the classes of the modules that an operation stands in, and of the last part of their
    paths: by them alone, two branches of a detector's head cannot be told apart.
    """
    seen: set[int] = set()
    for path, module in list(net.named_modules(remove_duplicate=False)):
        if id(module) in seen:  # one activation function that many layers share: a copy for each place
            module = copy.copy(module)
            net.set_submodule(path, module)
        seen.add(id(module))
        module.__class__ = type(f"<{path}>", (type(module),), {})


def _rename(path: Path) -> None:
    """Tensors get short names that tell the place of what makes them (`model.0.conv/CONV_2D.2`), input and outputs the
    names that they have in ONNX. As converted, names are a tenth of an INT8 file."""
    graph = _read(path)
    subgraph, signature = graph.subgraphs[0], graph.signatureDefs[0]
    names = {}
    for index, operator in enumerate(subgraph.operators):
        # The output of the graph bears no place: its weights tell it.
        tried = [
            subgraph.tensors[i].name.decode().split(";;")[0]
            for i in (*operator.outputs, *operator.inputs[1:])
            if i >= 0
        ]
        place = next((found[-1] for found in (re.findall("<([^<>]*)>", name) for name in tried) if found), "")
        for nth, output in enumerate(operator.outputs):
            last = f"{_kind(graph, operator)}.{index}" + (f".{nth}" if nth else "")
            names[output] = f"{place}/{last}" if place else last
    for index, tensor in enumerate(subgraph.tensors):
        tensor.name = names.get(index, f"c{index}").encode()
    subgraph.tensors[subgraph.inputs[0]].name = signature.inputs[0].name = INPUT.encode()
    for entry in signature.outputs:
        entry.name = entry.name.replace(b"_", b"")
    _flatbuffers().write_model(graph, str(path))


def _flatbuffers() -> Any:
    return importlib.import_module("ai_edge_litert.tools.flatbuffer_utils")


def _read(path: Path) -> Any:
    """The file as objects of TensorFlow Lite's schema. Raises TargetFailed for a missing or damaged file."""
    try:
        graph = _flatbuffers().read_model(str(path))
        graph.subgraphs[0].operators[0]  # what is no graph reads as an empty one
        return graph
    except Exception as error:  # struct.error, IndexError, TypeError …: it follows offsets wherever they lead
        raise TargetFailed(f"not a readable LiteRT file: {path}: {error}") from error


def _kind(graph: Any, operator: Any) -> str:
    return str(_flatbuffers().opcode_to_name(graph, operator.opcodeIndex))


def quantize(
    graph: Graph,
    model: Model,
    calibration: Sequence[np.ndarray],
    folder: Path,
    scheme: Scheme = SCHEMES[0],
    kept: Mapping[str, str] | None = None,
) -> Graph:
    """Writes `folder`/model.tflite in INT8.

    Raises:
        TargetFailed: unreadable graph, no calibration images, or the quantizer fails.
    """
    check(calibration)
    nodes, method = _nodes(graph.path), scheme.options.get("ranges", MEAN)
    floats = quantization_exclusions.kept_nodes(nodes, {**(kept or {}), **model.quantization_exclusions()})
    path = folder / "model.tflite"
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet():
        from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

        operations, skip = qtyping.TFLOperationName, algorithm_manager.AlgorithmName.NO_QUANTIZE
        try:
            made = quantizer.Quantizer(str(graph.path))
            made.add_static_config(".*", operations.ALL_SUPPORTED, 8, 8)
            for end in (operations.INPUT, operations.OUTPUT):  # float32 in and out
                made.update_quantization_recipe(".*", end, algorithm_key=skip)
            if floats:
                # An operation is found by the names of its outputs, each with a semicolon behind it.
                names = "|".join(re.escape(name) for name in floats)
                made.update_quantization_recipe(f"^(?:{names});", operations.ALL_SUPPORTED, algorithm_key=skip)
            ranges = _ranges(graph.path, calibration, method)
            made.quantize(ranges, enable_progress_report=False).export_model(str(path), overwrite=True)
        except Exception as error:  # anything: it is a chain of Python passes over the graph
            raise TargetFailed(f"LiteRT cannot quantize {graph.path}: {error}") from error
    # A transpose behind a layer's convolution bears that layer's name, and may be of the post-processing.
    int8 = {
        quantization_exclusions.module_path(node.name) for node in nodes if node.weighted and node.name not in floats
    }
    layers = {place: why for place, why in quantization_exclusions.by_module(floats).items() if place not in int8}
    facts = {"images": len(calibration), "method": METHODS[method]}
    return Graph(path, NAME, Precision.int8, scheme.description, layers, facts, graph.postprocess)


def _ranges(path: Path, images: Sequence[np.ndarray], method: str) -> dict[str, dict[str, np.ndarray]]:
    """What the quantizer wants to know of each tensor that is not constant: its range, by one of `calibration.METHODS`.
    Its own calibration takes seven times as long, and of 300 images heeds the last 20."""
    from ai_edge_litert.interpreter import Interpreter

    with _quiet():
        interpreter = Interpreter(str(path), num_threads=1, experimental_preserve_all_tensors=True)
        interpreter.allocate_tensors()
    subgraph = _read(path).subgraphs[0]
    tensors = [*subgraph.inputs, *(output for operator in subgraph.operators for output in operator.outputs)]
    extremes = []
    for image in images:
        interpreter.set_tensor(subgraph.inputs[0], image)
        interpreter.invoke()
        values = [interpreter.get_tensor(tensor) for tensor in tensors]
        extremes.append([[each.min() for each in values], [each.max() for each in values]])
    return {
        subgraph.tensors[tensor].name.decode(): {
            "min": np.full(1, lowest, np.float32),
            "max": np.full(1, highest, np.float32),
        }
        for tensor, lowest, highest in zip(tensors, *ranges_of(np.array(extremes), method), strict=True)
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the packages say of themselves and of the machine goes nowhere: progress bars, log lines, warnings, and what
    C++ writes past Python's streams. Errors are exceptions."""
    absl_logging: Any = importlib.import_module("absl.logging")  # which all three packages import
    # Hydra closes all log handlers when it sets up its own; this one then closes its stream too, if not this one.
    absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    logged = logging.root.manager.disable
    logging.disable(logging.WARNING)
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        logging.disable(logged)


def _nodes(path: Path) -> list[quantization_exclusions.Node]:
    """The graph's operations for `quantization_exclusions`; the converter has folded constants."""
    graph = _read(path)
    tensors, found = graph.subgraphs[0].tensors, []
    made_by: dict[int, str] = {}
    for operator in graph.subgraphs[0].operators:
        name, kind = tensors[operator.outputs[0]].name.decode(), _kind(graph, operator)
        parents = tuple(made_by[i] for i in operator.inputs if i in made_by)
        factors = [operator.inputs[i] for i in PRODUCTS.get(kind, ())]
        weighted = any(graph.buffers[tensors[i].buffer].data is not None for i in factors)
        found.append(quantization_exclusions.Node(name, parents, weighted, bool(factors) and not weighted))
        made_by.update(dict.fromkeys(operator.outputs, name))
    return found


def package(graphs: Sequence[Graph], folder: Path, model: Model, facts: Mapping[str, Any]) -> tuple[Graph, ...]:
    """Writes `folder`/{fp32,int8}/model.tflite, the manifest and the bench kit; returns the graphs in `folder`."""
    packed = [artifact.copy(graph, folder / graph.precision.value) for graph in graphs]
    versions = {package: version(package) for package in PACKAGES.values()}
    artifact.finish(packed, folder, model, load, facts, versions)
    return tuple(packed)


def load(graph: Graph, threads: int, *, exact: bool = False) -> Predictor:
    """Opens a graph in LiteRT on the CPU, where XNNPACK computes it.

    Raises:
        TargetFailed: missing or damaged file.
    """
    require()
    from ai_edge_litert.interpreter import Interpreter

    try:
        with _quiet():
            interpreter = Interpreter(str(graph.path), num_threads=threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise TargetFailed(f"LiteRT cannot open {graph.path}: {error}") from error
    given, answer = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given, image)
        interpreter.invoke()
        return interpreter.get_tensor(answer)  # a copy

    precision = "int8" if graph.precision is Precision.int8 else "f32"
    runtime = f"litert {version(PACKAGES['ai_edge_litert'])}"

    def arena() -> int:
        return arena_bytes(_read(graph.path))

    return Predictor(run, runtime, precision, "measured", lambda: layers(graph), "graph", arena)


def arena_bytes(graph: Any) -> int:
    """Bytes of the arena that LiteRT for Microcontrollers lays the tensors of `graph` out in: those alive at the same
    time side by side, the largest first, each in the first gap that holds it (its GreedyMemoryPlanner). Its own
    bookkeeping, some kilobytes, comes on top.
    """
    subgraph = graph.subgraphs[0]
    first = dict.fromkeys(subgraph.inputs, 0)
    last: dict[int, int] = {}
    for step, operator in enumerate(subgraph.operators):
        for tensor in operator.outputs:
            first.setdefault(tensor, step)
        for tensor in (*operator.inputs, *operator.outputs):
            last[tensor] = step
    last |= dict.fromkeys(subgraph.outputs, len(subgraph.operators))
    sizes = {tensor: _bytes(subgraph.tensors[tensor]) for tensor in first}
    placed: list[tuple[int, int, int]] = []  # tensor, from, to
    for tensor in sorted(sizes, key=lambda each: -sizes[each]):
        rivals = sorted(
            (start, end)
            for other, start, end in placed
            if first[other] <= last.get(tensor, first[tensor]) and first[tensor] <= last.get(other, first[other])
        )
        at = 0
        for start, end in rivals:
            if at + sizes[tensor] <= start:
                break
            at = max(at, end)
        placed.append((tensor, at, at + sizes[tensor]))
    return max((end for _, _, end in placed), default=0)


def _bytes(tensor: Any) -> int:
    """Of a tensor, rounded up to the 16 bytes that tensors are aligned to."""
    width = {"FLOAT32": 4, "INT32": 4, "INT64": 8, "INT16": 2, "FLOAT16": 2}
    return -(-prod(tensor.shape) * width.get(_flatbuffers().type_to_name(tensor.type), 1) // 16) * 16


def layers(graph: Graph) -> list[LayerMacs]:
    """What LiteRT must run in INT8: products whose two factors are INT8 tensors."""
    file = _read(graph.path)
    tensors, found = file.subgraphs[0].tensors, []
    for operator in file.subgraphs[0].operators:
        kind = _kind(file, operator)
        if kind not in PRODUCTS:
            continue
        factors = [tensors[operator.inputs[i]] for i in PRODUCTS[kind]]
        name = tensors[operator.outputs[0]].name.decode()
        macs = _macs(kind, operator, *(tuple(each.shape) for each in (*factors, tensors[operator.outputs[0]])))
        int8 = all(_flatbuffers().type_to_name(factor.type) == "INT8" for factor in factors)
        found.append(
            LayerMacs(name, macs, int8, (quantization_exclusions.module_path(name) or name) in graph.exclusions)
        )
    return found


def _macs(kind: str, operator: Any, data: tuple[int, ...], weights: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Weights are (out, kh, kw, in), of depthwise convolutions (1, kh, kw, out), of linear layers (out, in)."""
    if kind == "DEPTHWISE_CONV_2D":
        return prod(output) * prod(weights[1:3])
    if kind == "TRANSPOSE_CONV":
        return prod(data) * prod(weights[:3])
    if kind == "BATCH_MATMUL":
        return prod(output) * data[-2 if operator.builtinOptions.adjX else -1]
    return prod(output) * prod(weights[1:])
