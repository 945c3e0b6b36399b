"""One module per runtime. Each implements the functions of `Target` and is registered by a row in `TARGETS`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from compress.capabilities import Model
from compress.config import ExportConfig
from compress.errors import UserError
from compress.product import Graph, Precision
from compress.targets.predictor import Predictor
from compress.targets.scheme import Scheme

TARGETS = {
    "onnxruntime": "compress.targets.onnxruntime",
    "openvino": "compress.targets.openvino",
    "tensorrt": "compress.targets.tensorrt",
    "ncnn": "compress.targets.ncnn",
    "litert": "compress.targets.litert",
}


class Target(Protocol):
    """Interface of a target module."""

    FLOAT: Precision  # of the artifact's file that is not quantized
    QUANTIZED: Precision  # of the graphs that `quantize` writes: INT8, or FP16 if the target has no INT8
    SCHEMES: Sequence[Scheme]  # preferred first

    def require(self) -> None:
        """Raises MissingExtra if a package that this target needs is not installed."""

    def convert(self, model: Model, folder: Path, config: ExportConfig) -> Graph:
        """Writes the FP32 graph of `model.deployed()` (static batch 1) into `folder`."""

    def quantize(
        self, graph: Graph, model: Model, calibration: Sequence[np.ndarray], folder: Path,
        scheme: Scheme = ..., kept: Mapping[str, str] | None = None,
    ) -> Graph:  # fmt: skip
        """Writes the graph, quantized by one of `SCHEMES`, into `folder`.

        Args:
            calibration: images, float32 (1, channels, s, s) in [0, 1]; unused for FP16.
            kept: {module name prefix: reason} of modules to leave in float besides `model.quantization_exclusions()`.
        """

    def package(
        self, graphs: Sequence[Graph], folder: Path, model: Model, provenance: Mapping[str, Any]
    ) -> tuple[Graph, ...]:
        """Writes the artifact `folder`, with `provenance` in its manifest, and returns the graphs in it."""

    def load(self, graph: Graph, threads: int, *, exact: bool = False) -> Predictor:
        """Opens a graph from disk in its runtime. The predictor returns the raw outputs, without `graph.postprocess`.
        With `exact` it computes in the precision of the file, even if the runtime defaults to a lower one."""


def get(name: str) -> Target:
    """Returns the module of a target. Raises UserError if it is unknown, MissingExtra if it needs a missing package."""
    if name not in TARGETS:
        raise UserError("targets", name, f"choose from {', '.join(TARGETS)}")
    target = cast(Target, importlib.import_module(TARGETS[name]))
    target.require()
    return target


def load(graph: Graph, threads: int) -> Predictor:
    """Opens a graph in the runtime of its target and applies `graph.postprocess` to its output, so that the predictors
    of all targets return the same as the torch model. Raises TargetFailed if the runtime cannot open the file."""
    predictor = get(graph.target).load(graph, threads)
    if (postprocess := graph.postprocess) is None:
        return predictor
    return replace(predictor, run=lambda image: postprocess(predictor.run(image)))


def size_bytes(graph: Graph) -> int:
    """Bytes of the files that the runtime needs to run `graph`: the engine if one was built from it."""
    return graph.engine.stat().st_size if graph.engine else source_bytes(graph)


def source_bytes(graph: Graph) -> int:
    """Bytes of the files of `graph`, not counting an engine built from them."""
    return sum(path.stat().st_size for path in graph.files)
