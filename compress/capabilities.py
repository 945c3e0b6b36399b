"""Protocols of models, one per capability. Every model implements `Model`; the others depend on its origin:
Ultralytics, timm, an ONNX file, …. `require` gives a model the type of a protocol, or raises UserError."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, overload, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.tasks import Batch, Outputs, Predictions, Task
from compress.tasks.outputs import arrays, pack

if TYPE_CHECKING:
    from onnx import ModelProto

Capability = TypeVar("Capability")


@dataclass(frozen=True)
class Teacher:
    """A network with outputs of the same kind, which the network in training imitates (distillation)."""

    net: nn.Module  # eval mode
    weight: float  # distillation loss weight relative to the task loss
    alone: bool = False  # no task loss: batches have no targets


@dataclass(frozen=True)
class TopK:
    """NumPy version of the last step of an end-to-end detector (YOLO26's head), for runtimes without a top-k operator:
    selects the anchors with the highest class score, then the best (anchor, class) pairs among them."""

    classes: int
    max_detections: int  # per image

    @overload
    def __call__(self, outputs: np.ndarray) -> np.ndarray: ...

    @overload
    def __call__(self, outputs: Outputs) -> Outputs: ...

    def __call__(self, outputs: Outputs) -> Outputs:
        """(b, anchors, 4 + classes + e) to (b, k, 6 + e), k = min(max_detections, anchors), by descending score: box (4
        numbers, unchanged), score, class index, and the e further values of the anchor, such as mask coefficients.
        Of several outputs it changes only the first."""
        rows, *others = arrays(outputs)
        return pack([np.stack([self._of(image) for image in rows]), *others])

    def _of(self, rows: np.ndarray) -> np.ndarray:
        end = 4 + self.classes
        best = np.argsort(-rows[:, 4:end].max(axis=1), kind="stable")[: self.max_detections]
        scores = rows[best, 4:end].reshape(-1)
        order = np.argsort(-scores, kind="stable")[: len(best)]
        anchor, cls = np.divmod(order, self.classes)
        chosen = rows[best[anchor]]
        return np.column_stack([chosen[:, :4], scores[order], cls.astype(rows.dtype), chosen[:, end:]])


@runtime_checkable
class Model(Protocol):
    """A network that can be deployed: its FLOPs are counted, and it is exported, quantized and timed. Immutable."""

    @property
    def task(self) -> Task: ...

    @property
    def imgsz(self) -> int:
        """Side of the square input, in pixels."""

    @property
    def stride(self) -> int:
        """Input sides are multiples of this, in pixels."""

    @property
    def channels(self) -> int:
        """Input channels."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def postprocess(self) -> TopK | None:
        """What `deployed(postprocess=False)` lacks: its caller applies this to the output. None if it lacks nothing."""

    def identity(self) -> str:
        """Hash of names, shapes, types and values of all tensors, hexadecimal: `tensor_digest`."""

    def deployed(self, *, postprocess: bool = True) -> nn.Module:
        """A copy as it is deployed: fused, in eval mode, from an image batch to one raw output tensor (instance
        segmentation: two), with the step `self.postprocess` if `postprocess`. FLOPs are counted and graphs exported."""

    def metadata(self) -> dict[str, str]:
        """Key/value pairs to embed in exported graphs. For Ultralytics models: the keys that its own loader reads."""

    def quantization_exclusions(self) -> dict[str, str]:
        """Modules of `deployed()` that quantization leaves in float: {module name prefix: reason}."""

    def example_input(self, batch: int = 1) -> Tensor:
        """float32 (batch, channels, imgsz, imgsz) in [0, 1], equal at every call."""


@runtime_checkable
class Evaluable(Model, Protocol):
    """A model whose outputs can be decoded to predictions of its task."""

    def decode(self, outputs: Outputs) -> Predictions:
        """Decodes the raw outputs (b, …) of `deployed()`: an array, or a tuple of several. Returns the predictions of
        each image."""


@runtime_checkable
class TorchModel(Model, Protocol):
    """A model with a torch network."""

    @property
    def net(self) -> nn.Module:
        """The network with its weights as trained: not fused, float32."""

    def with_net(self, net: nn.Module) -> Self:
        """This model with `net`, which is not copied, instead of its network. Channels may differ."""

    def with_imgsz(self, imgsz: int) -> Self:
        """The same network for another square input, in pixels."""


@runtime_checkable
class Trainable(TorchModel, Protocol):
    """A model with a training loss."""

    def loss(self, net: nn.Module, batch: Batch, teacher: Teacher | None = None, parts: int = 1) -> Tensor:
        """Loss of `net` (same structure as `self.net`, for example an EMA copy) on a batch, scalar. With a teacher, the
        task's loss and the weighted distillation loss, (2,), whose sum is minimised, or with `teacher.alone` only the
        latter, scalar. If `batch` is one of `parts` equal parts of a batch, the mean over the parts is the loss of the
        whole."""

    def output_signature(self) -> tuple[object, ...]:
        """Properties of the output, besides its shape, that must be equal in teacher and student, such as strides."""


@runtime_checkable
class LossScheduled(Trainable, Protocol):
    """A trainable model whose loss terms change during training."""

    def schedule_loss(self, net: nn.Module, progress: float) -> None:
        """Sets the weights of the loss terms of `net` for the fraction `progress` of the training, in [0, 1]."""


@runtime_checkable
class Prunable(TorchModel, Protocol):
    """A model whose channels can be pruned."""

    def prunable(self) -> tuple[nn.Module, dict[str, str]]:
        """A copy of `net` that computes the same function and whose channel dependencies can be traced, and the modules
        in it whose output channels must not be pruned: {module name: reason}."""


@runtime_checkable
class Checkpointable(TorchModel, Protocol):
    """A model that can be saved without pickle and rebuilt."""

    def constructor(self) -> dict[str, Any]:
        """A JSON object from which `compress.models.from_constructor` builds the unpruned network."""


@runtime_checkable
class GivenAsGraph(Model, Protocol):
    """A model given as an ONNX file. It has no weights in torch."""

    @property
    def graph(self) -> ModelProto:
        """The graph that targets convert: standard ONNX in float32, static shapes with batch 1, constants folded,
        unique node names, input `images`, outputs `output0`, …."""

    @property
    def path(self) -> Path: ...

    @property
    def size_bytes(self) -> int:
        """Size of the original file, with its external weights."""

    @property
    def runtime(self) -> str:
        """Name and version of the runtime that executes the original file."""


@runtime_checkable
class Preprocessed(Model, Protocol):
    """A model with image preprocessing beyond scaling to [0, 1]."""

    def preprocessing(self) -> dict[str, Any]:
        """Entries for `manifest.json` of an artifact: `normalised_in_graph` {mean, std}, numbers per channel that the
        graph applies to images in [0, 1], and `timm`, if timm resizes and crops images differently."""


ACTIONS: dict[object, str] = {  # what only a model with the capability can be
    TorchModel: "used as a torch network",
    Trainable: "trained",
    Prunable: "pruned",
    Checkpointable: "saved as a checkpoint",
    Evaluable: "evaluated",
}


def require(model: Model, capability: type[Capability], key: str, value: object) -> Capability:
    """Returns `model` if it implements `capability`. Otherwise raises UserError for the configuration `key`=`value`."""
    if not isinstance(model, capability):
        cannot = f"the {type(model).__name__} for the task {model.task.name} cannot be {ACTIONS[capability]} here"
        raise UserError(key, value, cannot)
    return model


def example_image(batch: int, channels: int, imgsz: int) -> Tensor:
    """float32 (batch, channels, imgsz, imgsz): random values in [0, 1), equal at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, channels, imgsz, imgsz, generator=generator)


def tensor_digest(net: nn.Module) -> str:
    """SHA-256 over names, shapes, types and values of a network's tensors, hexadecimal."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        hashed.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        hashed.update(tensor.detach().contiguous().numpy().tobytes())
    return hashed.hexdigest()
