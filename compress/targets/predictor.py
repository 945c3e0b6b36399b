"""A graph opened in its runtime, as one callable that evaluation and timing share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class LayerMacs:
    """One convolution or matrix product of a graph: its MACs, whether INT8 arithmetic does it, whether it was
    left in float on purpose."""

    name: str
    macs: int
    int8: bool
    kept: bool


@dataclass(frozen=True)
class Int8Share:
    """Shares of MACs done in INT8, in [0, 1]."""

    overall: float
    outside_kept: float  # among the layers that were meant to be INT8
    obtained: str  # "runtime": it told; "graph": read from where Q/DQ pairs stand


def int8_share(layers: Sequence[LayerMacs], obtained: str) -> Int8Share:
    """Sums layers up; a graph with no MACs has no INT8 share."""
    meant = [layer for layer in layers if not layer.kept]
    return Int8Share(_share(layers), _share(meant), obtained)


def _share(layers: Sequence[LayerMacs]) -> float:
    total = sum(layer.macs for layer in layers)
    return sum(layer.macs for layer in layers if layer.int8) / total if total else 0.0


@dataclass(frozen=True)
class Predictor:
    """Maps images float32 (b, c, s, s) to raw outputs float32 (b, …). Graphs hold one image: a batch is a loop."""

    run: Callable[[np.ndarray], np.ndarray]  # (1, c, s, s) -> (1, …)
    runtime: str  # name and version
    inference_precision: str  # what the bulk of the arithmetic is done in: f32, bf16, f16, int8
    obtained: str  # "measured", or "emulated" where another runtime stands in
    layers: Callable[[], Sequence[LayerMacs]] = field(repr=False)
    layers_obtained: str = "runtime"
    arena_bytes: Callable[[], int] | None = None  # that its tensors take while it computes, where the file tells
    computed_by: str = ""  # what decides the answers besides the file; "": the runtime and its precision

    @property
    def evaluator(self) -> str:
        """Two predictors with the same evaluator give the same answers from the same file."""
        return self.computed_by or f"{self.runtime} {self.inference_precision}"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images, dtype=np.float32)
        return np.concatenate([self.run(images[i : i + 1]) for i in range(len(images))]).astype(np.float32, copy=False)

    def int8_mac_share(self) -> Int8Share:
        """Asks the runtime which layers it executes in INT8 (compiles the graph once more: not for hot paths)."""
        return int8_share(self.layers(), self.layers_obtained)
