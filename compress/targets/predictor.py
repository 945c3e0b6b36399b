"""The predictor: a graph loaded into its runtime, used for evaluation and for timing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from compress.tasks import Outputs
from compress.tasks.outputs import arrays, pack


@dataclass(frozen=True)
class LayerMacs:
    """MACs of one convolution or matrix product of a graph."""

    name: str
    macs: int
    int8: bool  # computed in INT8


@dataclass(frozen=True)
class Predictor:
    """Maps images float32 (b, c, s, s) to raw outputs float32 (b, …), a tuple of them if the graph has several. Graphs
    have batch 1, so images run one by one."""

    run: Callable[[np.ndarray], Outputs]  # (1, c, s, s) -> (1, …)
    runtime: str  # name and version
    inference_precision: str  # of most of the arithmetic: f32, tf32, bf16, f16, int8
    obtained: str  # "measured", or "emulated" if another runtime replaces the target's
    layers: Callable[[], Sequence[LayerMacs]] = field(repr=False)
    layers_obtained: str = "runtime"  # reported by it; "graph": inferred from the file, e.g. from its Q/DQ pairs
    arena_bytes: Callable[[], int] | None = None  # bytes of its tensors during inference, if the file determines them
    computed_by: str = ""  # what determines the outputs besides the file; "": the runtime and its precision

    @property
    def evaluator(self) -> str:
        """Predictors with equal evaluators return the same outputs for the same file."""
        return self.computed_by or f"{self.runtime} {self.inference_precision}"

    def __call__(self, images: np.ndarray) -> Outputs:
        images = np.ascontiguousarray(images, dtype=np.float32)
        computed = [arrays(self.run(images[i : i + 1])) for i in range(len(images))]
        return pack(np.concatenate(each).astype(np.float32, copy=False) for each in zip(*computed, strict=True))

    def int8_mac_share(self) -> float:
        """Fraction of the MACs that are computed in INT8; 0 if there are none. Slow: may compile the graph again."""
        layers = self.layers()
        total = sum(layer.macs for layer in layers)
        return sum(layer.macs for layer in layers if layer.int8) / total if total else 0.0
