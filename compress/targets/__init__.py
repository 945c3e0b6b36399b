"""One module per runtime. Each offers the plain functions of `Target`; the table below is all there is to register."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from compress.config import ExportConfig
from compress.errors import UserError
from compress.product import Graph, Model
from compress.targets.predictor import Predictor

TARGETS = {
    "onnxruntime": "compress.targets.onnxruntime",
    "openvino": "compress.targets.openvino",
    "tensorrt": "compress.targets.tensorrt",
    "litert": "compress.targets.litert",
}


class Target(Protocol):
    """What a target module offers."""

    def require(self) -> None:
        """Raises MissingExtra where a package this target needs is absent."""

    def convert(self, model: Model, folder: Path, config: ExportConfig) -> Graph:
        """Writes the FP32 graph of `model.deployed()` (static batch 1) into `folder`."""

    def quantize(self, graph: Graph, model: Model, calibration: Sequence[np.ndarray], folder: Path) -> Graph:
        """Writes the INT8 graph into `folder`, or that of FP16 where the target has no INT8. Each calibration item is
        float32 (1, channels, s, s) in [0, 1]."""

    def package(
        self, graphs: Sequence[Graph], folder: Path, model: Model, facts: Mapping[str, Any]
    ) -> tuple[Graph, ...]:
        """Writes the artifact `folder` (artifacts/<target>) and returns the graphs in it; `facts` join its manifest."""

    def load(self, graph: Graph, threads: int) -> Predictor:
        """Opens a graph from disk in its own runtime; the predictor gives what the file gives, without `graph.tail`."""


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
    if (tail := graph.tail) is None:
        return predictor
    run = predictor.run
    return replace(predictor, run=lambda image: tail(run(image)))


def size_bytes(graph: Graph) -> int:
    """Bytes of every file the runtime needs to run `graph`."""
    weights = graph.path.with_suffix(".bin") if graph.path.suffix == ".xml" else None
    return sum(path.stat().st_size for path in (graph.path, weights) if path is not None)
