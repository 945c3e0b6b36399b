"""What models offer: small protocols. Every model offers `Model`; the others only where its family can.

A function asks for the protocol that it needs, and `require` says before any work what a model does not offer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.tasks import Batch, Predictions, Task

if TYPE_CHECKING:
    from onnx import ModelProto

Capability = TypeVar("Capability")


@dataclass(frozen=True)
class Teacher:
    """A better network of the same family, for distillation."""

    net: nn.Module  # eval mode
    weight: float  # distillation loss weight relative to the task loss


@dataclass(frozen=True)
class TopK:
    """How an end-to-end detector selects its detections from one row per anchor, in NumPy: for runtimes that cannot
    select by value inside a graph. The steps of YOLO26's own head: the best anchors by their best class, then of those
    the best (anchor, class) pairs."""

    classes: int
    most: int  # detections per image

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


@runtime_checkable
class Model(Protocol):
    """A network that can be deployed: counted, exported, quantized and timed. Immutable."""

    @property
    def task(self) -> Task: ...

    @property
    def imgsz(self) -> int:
        """Side of the square input, in pixels."""
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

    @property
    def postprocess(self) -> TopK | None:
        """The last step of the deployed network where it selects by value; None where it does not."""
        ...

    def identity(self) -> str:
        """A hash of the weights, hexadecimal: equal for the same tensors under the same names."""
        ...

    def deployed(self, *, postprocess: bool = True) -> nn.Module:
        """A copy as it is deployed: fused, eval mode, one image batch in, one raw output tensor out (two from networks
        that segment). FLOPs are counted on it and graphs exported from it. Without `postprocess`: up to that step."""
        ...

    def metadata(self) -> dict[str, str]:
        """Key/value pairs to embed in exported graphs (what plain Ultralytics reads, for its models)."""
        ...

    def quantization_exclusions(self) -> dict[str, str]:
        """Modules of `deployed()` that INT8 should leave in float: {module name prefix: reason}."""
        ...

    def example_input(self, batch: int = 1) -> Tensor:
        """float32 (batch, channels, imgsz, imgsz) in [0, 1], the same at every call."""
        ...


@runtime_checkable
class Evaluable(Model, Protocol):
    """A model whose outputs can be decoded to predictions of its task."""

    def decode(self, outputs: np.ndarray) -> Predictions:
        """Predictions for raw outputs (b, …) of the deployed network, one per image."""
        ...


@runtime_checkable
class TorchModel(Model, Protocol):
    """A model with a torch network behind it."""

    @property
    def net(self) -> nn.Module:
        """Trainable, not fused, float32."""
        ...

    def with_net(self, net: nn.Module) -> Self: ...

    def with_imgsz(self, imgsz: int) -> Self:
        """The same network for another square input, in pixels."""
        ...


@runtime_checkable
class Trainable(TorchModel, Protocol):
    """A model with a training loss."""

    def loss(self, net: nn.Module, batch: Batch, teacher: Teacher | None = None) -> Tensor:
        """Scalar loss of `net` (same structure as `self.net`, for example an EMA copy) on a batch; with a teacher the
        distillation loss is added."""
        ...

    def output_signature(self) -> tuple[object, ...]:
        """What the outputs of two networks must share, besides their shapes, so that one can teach the other."""
        ...


@runtime_checkable
class LossScheduled(Protocol):
    """A trainable model whose loss terms change during training."""

    def schedule_loss(self, net: nn.Module, progress: float) -> None:
        """Sets the loss terms of `net` for a training that is done to `progress`, in [0, 1]."""
        ...


@runtime_checkable
class Prunable(TorchModel, Protocol):
    """A model whose channels can be pruned."""

    def prunable(self) -> tuple[nn.Module, dict[str, str]]:
        """A copy of `net` that a dependency graph can prune, computing the same function, and the modules in it
        that must keep their output channels: {module name: reason}."""
        ...


@runtime_checkable
class Checkpointable(TorchModel, Protocol):
    """A model that can be saved without pickle and rebuilt."""

    def constructor(self) -> dict[str, Any]:
        """A JSON object from which `compress.models.from_constructor` builds the unpruned network again."""
        ...


@runtime_checkable
class GivenAsGraph(Protocol):
    """A model that is an ONNX file and has no torch network."""

    @property
    def graph(self) -> ModelProto:
        """What targets start from: standard ONNX in float32, static shapes with batch 1, constants folded, every node
        with a name of its own, input `images`, output `output0`."""
        ...

    @property
    def path(self) -> Path: ...

    @property
    def size_bytes(self) -> int:
        """Of the file as given, with weights stored outside it."""
        ...

    @property
    def runtime(self) -> str:
        """Name and version of what computes the file as given."""
        ...


@runtime_checkable
class Preprocessed(Protocol):
    """A model that knows how its images are prepared, beyond scaling bytes to [0, 1]."""

    def preprocessing(self) -> dict[str, Any]:
        """For the manifest: `normalised_in_graph` {mean, std}, which the graph applies itself, and what the network's
        own library does with images where that differs from here."""
        ...


VERBS: dict[object, str] = {
    Trainable: "trained",
    Prunable: "pruned",
    Checkpointable: "saved as a checkpoint",
    Evaluable: "evaluated",
}


def require(model: Model, capability: type[Capability], key: str, value: object) -> Capability:
    """`model` as what it must offer. Raises UserError, for the key and value that ask for it, where it does not."""
    if not isinstance(model, capability):
        verb = VERBS.get(capability, "used")
        raise UserError(key, value, f"a {type(model).__name__} for the task {model.task.name} cannot be {verb} here")
    return model


def example_image(batch: int, channels: int, imgsz: int) -> Tensor:
    """A fixed random image batch in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, channels, imgsz, imgsz, generator=generator)


def tensor_digest(net: nn.Module) -> str:
    """SHA-256 over names, shapes, types and values of a network's tensors, hexadecimal."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        hashed.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        hashed.update(tensor.detach().contiguous().numpy().tobytes())
    return hashed.hexdigest()
