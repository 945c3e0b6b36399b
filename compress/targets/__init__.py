"""One module per runtime. Each offers the plain functions of `Target`; the table below is all there is to register."""

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
    """What a target module offers."""

    def require(self) -> None:
        """Raises MissingExtra where a package this target needs is absent."""

    def convert(self, model: Model, folder: Path, config: ExportConfig) -> Graph:
        """Writes the FP32 graph of `model.deployed()` (static batch 1) into `folder`."""

    QUANTIZED: Precision
    """What `quantize` gives: INT8, or FP16 where the target has no INT8."""

    SCHEMES: Sequence[Scheme]
    """Ways to quantize, in order of promise."""

    def quantize(
        self,
        graph: Graph,
        model: Model,
        calibration: Sequence[np.ndarray],
        folder: Path,
        scheme: Scheme = ...,
        kept: Mapping[str, str] | None = None,
    ) -> Graph:
        """Writes the quantized graph into `folder`.

        Args:
            calibration: float32 (1, channels, s, s) in [0, 1] each; FP16 needs none.
            scheme: of `SCHEMES`; the first by default.
            kept: {module name prefix: why} of what stays in float besides `model.quantization_exclusions()`.
        """

    def package(
        self, graphs: Sequence[Graph], folder: Path, model: Model, facts: Mapping[str, Any]
    ) -> tuple[Graph, ...]:
        """Writes the artifact `folder` (artifacts/<target>) and returns the graphs in it; `facts` join its manifest."""

    def load(self, graph: Graph, threads: int, *, exact: bool = False) -> Predictor:
        """Opens a graph from disk in its own runtime; it returns what the file does, without `graph.postprocess`.
        Exact: computed as the file says, even where the runtime would do with fewer bits by itself."""


def get(name: str) -> Target:
    """The module of a target.

    Raises:
        UserError: no such target.
        MissingExtra: a package the target needs is not installed.
    """
    if name not in TARGETS:
        raise UserError("targets", name, f"choose from {', '.join(TARGETS)}")
    target = cast(Target, importlib.import_module(TARGETS[name]))
    target.require()
    return target


def load(graph: Graph, threads: int) -> Predictor:
    """Opens a graph in the runtime of its target. What the file leaves to NumPy is done behind it, so that every
    predictor answers as the torch model does.

    Raises:
        TargetFailed: the runtime refuses the file.
    """
    predictor = get(graph.target).load(graph, threads)
    if (postprocess := graph.postprocess) is None:
        return predictor
    run = predictor.run
    return replace(predictor, run=lambda image: postprocess(run(image)))


def size_bytes(graph: Graph) -> int:
    """Bytes of every file the runtime needs to run `graph`: the engine where one was built of it."""
    return graph.engine.stat().st_size if graph.engine else source_bytes(graph)


def source_bytes(graph: Graph) -> int:
    """Bytes of the files of `graph` itself, which an engine may have been built of."""
    return sum(path.stat().st_size for path in graph.files)
