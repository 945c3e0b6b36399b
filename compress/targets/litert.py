"""LiteRT, the successor of TensorFlow Lite, for Android phones and microcontrollers. `litert_torch` converts the torch
network directly, without ONNX; `ai_edge_quantizer` then quantizes to static INT8. LiteRT's own layout is channels last:
the transpose of the images (1, c, s, s) before the first convolution costs 0.3 ms of drone_nano's 6 ms."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compress.capabilities import Model
from compress.config import ExportConfig
from compress.errors import MissingExtra, TargetFailed
from compress.product import Graph, Precision
from compress.targets import artifact, litert_arena, litert_graph
from compress.targets.calibration import EXTREMES, MEAN, METHODS, check, ranges_of
from compress.targets.predictor import Predictor
from compress.targets.quantization_exclusions import by_module, kept_nodes, module_path
from compress.targets.scheme import Scheme

NAME = "litert"
FLOAT = Precision.fp32
QUANTIZED = Precision.int8
_WHAT = "static: S8 asymmetric activations, S8 symmetric per-channel weights, all operators"
SCHEMES = (Scheme(_WHAT), Scheme(f"{_WHAT}, ranges from the extremes of all images", {"ranges": EXTREMES}))
PACKAGES = {module: module.replace("_", "-") for module in ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")}


def require() -> None:
    """Raises MissingExtra if the converter, the quantizer or the runtime is not installed."""
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise MissingExtra("targets", package, NAME)


def convert(model: Model, folder: Path, config: ExportConfig) -> Graph:
    """Writes `folder`/model.tflite in FP32. Detectors that select by value return all rows: accelerators of phones lack
    top-k, so `Graph.postprocess` does it in NumPy. Raises TargetFailed if the network cannot be converted."""
    net, example = model.deployed(postprocess=False), model.example_input()
    path = folder / "model.tflite"
    folder.mkdir(parents=True, exist_ok=True)
    _use_paths_as_class_names(net)
    with _quiet():
        import litert_torch

        try:
            litert_torch.convert(net, (example,)).export(str(path))
        except Exception as error:  # torch.export and a chain of compiler passes raise exceptions of any type
            raise TargetFailed(f"LiteRT cannot convert this network: {error}") from error
    litert_graph.rename_tensors(path)
    return Graph(path, NAME, Precision.fp32, postprocess=model.postprocess)


def _use_paths_as_class_names(net: nn.Module) -> None:
    """Sets the class name of every module of `net` to its path, in place: the converter names an operation by classes
    and the last part of paths, which does not distinguish the branches of a detector's head."""
    seen: set[int] = set()
    for path, module in list(net.named_modules(remove_duplicate=False)):
        if id(module) in seen:  # an activation function shared by several layers: one copy per path
            module = copy.copy(module)
            net.set_submodule(path, module)
        seen.add(id(module))
        module.__class__ = type(f"<{path}>", (type(module),), {})


def quantize(
    graph: Graph, model: Model, calibration: Sequence[np.ndarray], folder: Path,
    scheme: Scheme = SCHEMES[0], kept: Mapping[str, str] | None = None,
) -> Graph:  # fmt: skip
    """Writes `folder`/model.tflite in INT8. Raises TargetFailed: unreadable graph, no images, quantizer failed."""
    check(calibration)
    nodes, method = litert_graph.nodes_of(graph.path), scheme.options.get("ranges", MEAN)
    excluded = kept_nodes(nodes, {**(kept or {}), **model.quantization_exclusions()})
    path = folder / "model.tflite"
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet():
        from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

        operations, skip = qtyping.TFLOperationName, algorithm_manager.AlgorithmName.NO_QUANTIZE
        try:
            quantization = quantizer.Quantizer(str(graph.path))
            quantization.add_static_config(".*", operations.ALL_SUPPORTED, 8, 8)
            for end in (operations.INPUT, operations.OUTPUT):  # inputs and outputs stay float32
                quantization.update_quantization_recipe(".*", end, algorithm_key=skip)
            if excluded:
                # The quantizer matches operations by the names of their outputs, each followed by a semicolon.
                names = "|".join(re.escape(name) for name in excluded)
                quantization.update_quantization_recipe(f"^(?:{names});", operations.ALL_SUPPORTED, algorithm_key=skip)
            ranges = _ranges(graph.path, calibration, method)
            quantization.quantize(ranges, enable_progress_report=False).export_model(str(path), overwrite=True)
        except Exception as error:  # a chain of Python passes over the graph raises exceptions of any type
            raise TargetFailed(f"LiteRT cannot quantize {graph.path}: {error}") from error
    # A transpose after a convolution has the name of the convolution's module, but may belong to the postprocessing.
    int8 = {module_path(node.name) for node in nodes if node.weighted and node.name not in excluded}
    exclusions = {module: reason for module, reason in by_module(excluded).items() if module not in int8}
    record = {"images": len(calibration), "method": METHODS[method]}
    return Graph(path, NAME, Precision.int8, scheme.description, exclusions, record, graph.postprocess)


def _ranges(path: Path, images: Sequence[np.ndarray], method: str) -> dict[str, dict[str, np.ndarray]]:
    """Range of each tensor that is not constant, by one of `calibration.METHODS`, in the quantizer's format. Its own
    calibration takes seven times as long, and uses only the last 20 of 300 images."""
    from ai_edge_litert.interpreter import Interpreter

    with _quiet():
        interpreter = Interpreter(str(path), num_threads=1, experimental_preserve_all_tensors=True)
        interpreter.allocate_tensors()
    subgraph = litert_graph.read(path).subgraphs[0]
    tensors = [*subgraph.inputs, *(output for operator in subgraph.operators for output in operator.outputs)]
    extremes = []
    for image in images:
        interpreter.set_tensor(subgraph.inputs[0], image)
        interpreter.invoke()
        values = [interpreter.get_tensor(tensor) for tensor in tensors]
        extremes.append([[value.min() for value in values], [value.max() for value in values]])
    return {
        subgraph.tensors[tensor].name.decode(): {"min": lowest.reshape(1), "max": highest.reshape(1)}
        for tensor, lowest, highest in zip(tensors, *ranges_of(np.array(extremes), method), strict=True)
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences progress bars, log lines, warnings, and C++ output to file descriptor 2; errors are exceptions."""
    absl_logging: Any = importlib.import_module("absl.logging")  # all three packages import it
    # Hydra closes all log handlers when it sets up its own. This handler then closes its stream, unless that is stderr.
    absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    disabled_level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as devnull, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(devnull.fileno(), 2)
            yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        logging.disable(disabled_level)


def package(graphs: Sequence[Graph], folder: Path, model: Model, provenance: Mapping[str, Any]) -> tuple[Graph, ...]:
    """Writes `folder`/{fp32,int8}/model.tflite, the manifest and the bench kit; returns the graphs in `folder`."""
    packed = [artifact.copy(graph, folder / graph.precision.value) for graph in graphs]
    versions = {package: version(package) for package in PACKAGES.values()}
    return artifact.finish(packed, folder, model, load, provenance, versions)


def load(graph: Graph, threads: int, *, exact: bool = False) -> Predictor:
    """Opens a graph in LiteRT on the CPU (XNNPACK). Raises TargetFailed for a missing or damaged file."""
    require()
    from compress.targets.bench_kit import runtime_litert

    try:
        with _quiet():
            run, _, _ = runtime_litert.load(graph.path, threads)
    except (ValueError, RuntimeError) as error:
        raise TargetFailed(f"LiteRT cannot open {graph.path}: {error}") from error
    precision = "int8" if graph.precision is Precision.int8 else "f32"
    return Predictor(
        run, f"litert {version(PACKAGES['ai_edge_litert'])}", precision, "measured",
        layers=lambda: litert_graph.layers(graph), layers_obtained="graph",
        arena_bytes=lambda: litert_arena.arena_bytes(litert_graph.read(graph.path)),
    )  # fmt: skip
