"""What travels between stages: a torch model first, later one model file per target and precision.

Products are immutable once made: a stage returns a new one. `Model` is the contract every model family in
`compress/models/` keeps, so that stages, targets and measurements need not know whose network it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from onnx import ModelProto


class Task(StrEnum):
    """What a model is for. Only the first two have data, a loss and an accuracy here; models of the others are pruned,
    saved and exported."""

    detect = "detect"
    classify = "classify"
    segment = "segment"
    pose = "pose"
    obb = "obb"


class Precision(StrEnum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


@dataclass(frozen=True)
class Detections:
    """What a detector found on one image: boxes (n, 4) x1, y1, x2, y2 in network-input pixels,
    scores (n,) in [0, 1] in descending order, classes (n,) int64."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


Batch = dict[str, Tensor]
"""A training batch. Detection: `img` float32 (b, 3, s, s) in [0, 1] RGB, `cls` (n, 1), `bboxes` (n, 4) centre x, y,
width, height as shares of the image, `batch_idx` (n,). Classification: `img` and `cls` int64 (b,)."""


@dataclass(frozen=True)
class Teacher:
    """A better network of the same family, whose answers are learned from beside the labels (distillation)."""

    net: nn.Module  # eval mode
    weight: float  # of the distance from its answers; that from the labels weighs 1


@dataclass(frozen=True)
class TopK:
    """How an end-to-end detector picks its detections from a row for every anchor, in NumPy: for runtimes that cannot
    pick by value inside a graph. The same steps as in YOLO26's own head: the best anchors by their best class, then of
    those the best (anchor, class) pairs."""

    classes: int
    most: int  # detections an image

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """(b, anchors, 4 + classes + extra) to (b, k, 6 + extra): box, score, class, extra; in descending score."""
        return np.stack([self._of(image) for image in rows])

    def _of(self, rows: np.ndarray) -> np.ndarray:
        end = 4 + self.classes
        best = np.argsort(-rows[:, 4:end].max(axis=1), kind="stable")[: self.most]
        scores = rows[best, 4:end].reshape(-1)
        order = np.argsort(-scores, kind="stable")[: len(best)]
        anchor, cls = np.divmod(order, self.classes)
        chosen = rows[best[anchor]]
        return np.concatenate([chosen[:, :4], scores[order, None], cls[:, None], chosen[:, end:]], axis=1)


class Model(Protocol):
    """A network and all that is particular to its family. Immutable: `with_net` makes a new one."""

    @property
    def net(self) -> nn.Module:
        """Trainable, not fused, float32."""
        ...

    @property
    def task(self) -> Task: ...

    @property
    def imgsz(self) -> int:
        """Pixels, square input."""
        ...

    @property
    def stride(self) -> int:
        """Input sides are multiples of this, in pixels."""
        ...

    @property
    def channels(self) -> int:
        """Input channels."""
        ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    def with_net(self, net: nn.Module) -> Self: ...

    def loss(self, net: nn.Module, batch: Batch, teacher: Teacher | None = None) -> Tensor:
        """Scalar training loss of `net` (same structure as self.net, perhaps an EMA copy) on a batch; with a teacher
        also the distance from its answers, times its weight."""
        ...

    def progress(self, net: nn.Module, share: float) -> None:
        """Tells the loss of `net` how much of its training is done (0 to 1), where its terms change on the way."""
        ...

    def deployed(self, *, tail: bool = True) -> nn.Module:
        """A copy as it is deployed: fused, eval mode, one image batch in, one raw output tensor out (two from networks
        that segment). FLOPs are counted on it, graphs are exported from it. Without its tail: what `tail` starts from.
        """
        ...

    @property
    def tail(self) -> TopK | None:
        """The last step of the deployed form, where that picks by value; None where nothing does."""
        ...

    def prunable(self) -> tuple[nn.Module, dict[str, str]]:
        """A copy of `net` that a dependency graph can prune, computing the same function, and the modules in it
        that must keep their output channels: {module name: why}."""
        ...

    def decode(self, outputs: np.ndarray) -> list[Detections] | np.ndarray:
        """Raw outputs (b, …) of the deployed graph to one Detections an image, or class scores (b, classes)."""
        ...

    def constructor(self) -> dict[str, Any]:
        """JSON-able facts from which `compress.models.from_constructor` makes the unpruned network again."""
        ...

    def metadata(self) -> dict[str, str]:
        """Key/value pairs to embed in exported graphs (what plain Ultralytics reads, for its models)."""
        ...

    def kept_float(self) -> dict[str, str]:
        """Modules of `deployed()` that INT8 should leave in float: {module name prefix: why}."""
        ...

    def example_input(self, batch: int = 1) -> Tensor:
        """float32 (batch, channels, imgsz, imgsz) in [0, 1], the same at every call."""
        ...


@runtime_checkable
class GivenAsGraph(Protocol):
    """Kept besides `Model` by a model that is an ONNX file and has no torch network behind it."""

    @property
    def graph(self) -> ModelProto:
        """What targets start from: standard ONNX in float32, static shapes with batch 1, constants folded, every node
        with a name of its own, input `images`, output `output0`."""
        ...


@runtime_checkable
class Preprocessed(Protocol):
    """Kept besides `Model` by one that knows how its images are prepared, beyond scaling bytes to [0, 1]."""

    def preprocessing(self) -> dict[str, Any]:
        """For the manifest: `normalised_in_graph` {mean, std}, which the graph applies itself, and what the network's
        own library does with images where that differs from here."""
        ...


def resized(model: Model, imgsz: int) -> Model:
    """The same network for another input size, square, in pixels."""
    return replace(model, imgsz=imgsz)  # type: ignore[type-var]


def example_image(batch: int, channels: int, imgsz: int) -> Tensor:
    """A fixed random image batch in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, channels, imgsz, imgsz, generator=generator)


def identity(model: Model) -> str:
    """sha256 over names, shapes and values of the network's tensors: the same weights, the same identity."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(model.net.state_dict().items()):
        hashed.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        hashed.update(tensor.detach().contiguous().numpy().tobytes())
    return hashed.hexdigest()


ENGINE = "model.engine"  # beside the ONNX file it was built of


@dataclass(frozen=True)
class Graph:
    """One model file of one target: ONNX, or OpenVINO's xml (its bin beside it), say. `files` are all it needs."""

    path: Path
    target: str
    precision: Precision
    scheme: str = ""  # how it was quantized, in words
    kept_float: Mapping[str, str] = field(default_factory=dict)  # {layer or node: why}
    calibration: Mapping[str, Any] = field(default_factory=dict)  # images, fingerprint, method
    tail: TopK | None = None  # what is left to do with the file's output, where its runtime cannot

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file the runtime needs: OpenVINO and ncnn keep the weights in a .bin beside the graph."""
        return (self.path, self.path.with_suffix(".bin")) if self.path.suffix in (".xml", ".param") else (self.path,)

    @property
    def engine(self) -> Path | None:
        """What was built of the file ahead of time and runs in its place (TensorRT); None where there is none."""
        path = self.path.with_name(ENGINE)
        return path if path.exists() else None


@dataclass(frozen=True)
class Graphs:
    """The product of quantize: the torch model the graphs came from, and the graphs."""

    model: Model
    graphs: tuple[Graph, ...]


@dataclass(frozen=True)
class Artifacts:
    """The product of export: one folder per target, holding one file set per precision."""

    model: Model
    folder: Path
    graphs: tuple[Graph, ...]  # paths inside `folder`, as reloaded
