"""Detectors of the Ultralytics package, and the base class of the models for its other networks."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from compress.capabilities import Teacher, TopK, example_image, tensor_digest
from compress.models import activation
from compress.models import ultralytics_blocks as blocks
from compress.models import ultralytics_distillation as distillation
from compress.models import ultralytics_head as head
from compress.tasks import DETECT, Batch, Outputs, Task
from compress.training.precision import float32

# Not an attribute of the network, which is deep-copied, averaged and saved. A criterion does not reference its network,
# so an entry is freed together with the network.
_criteria: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


@dataclass(frozen=True)
class UltralyticsModel:
    """A model (`Prunable`, `Checkpointable`) for networks with a Detect head or one derived from it."""

    net: Any  # ultralytics.nn.tasks.BaseModel
    name: str
    imgsz: int
    channels: int
    classes: tuple[str, ...]
    protected: tuple[str, ...] = ()
    task: Task = DETECT

    @property
    def stride(self) -> int:
        return int(self.net.stride.max())

    def with_net(self, net: nn.Module) -> Self:
        return replace(self, net=net)

    def with_imgsz(self, imgsz: int) -> Self:
        return replace(self, imgsz=imgsz)

    def identity(self) -> str:
        return tensor_digest(self.net)

    def deployed(self, *, postprocess: bool = True) -> nn.Module:
        """Fused copy that maps (b, c, s, s) to the outputs described in `ultralytics_head.deployed`."""
        return head.deployed(self.net, self.example_input(), postprocess)

    @property
    def postprocess(self) -> TopK | None:
        last = self.net.model[-1]
        return TopK(len(self.classes), last.max_det) if getattr(last, "end2end", False) else None

    def prunable(self) -> tuple[nn.Module, dict[str, str]]:
        net = head.show_unseen(blocks.split_blocks(copy.deepcopy(self.net))).eval()
        return net, blocks.protected(net) | head.protected(net) | dict.fromkeys(self.protected, "model.protected")

    def constructor(self) -> dict[str, Any]:
        yaml = {key: value for key, value in self.net.yaml.items() if key != "yaml_file"}
        return {
            "family": "ultralytics", "name": self.name, "yaml": yaml, "split": blocks.is_split(self.net),
            "classes": list(self.classes), "channels": self.channels, "imgsz": self.imgsz,
            "protected": list(self.protected), "activation": activation.of(self.net),
        }  # fmt: skip

    def metadata(self) -> dict[str, str]:
        """Entries that Ultralytics reads from a graph to validate or predict with it: batch 1 and fixed size."""
        import ultralytics

        last = self.net.model[-1]
        entries = {
            "description": f"Ultralytics {self.name} model, compressed",
            "version": ultralytics.__version__,
            "license": "AGPL-3.0 License (https://ultralytics.com/license)",
            "stride": self.stride,
            "task": self.task.name,
            "head": type(last).__name__,
            "batch": 1,
            "imgsz": [self.imgsz, self.imgsz],
            "names": dict(enumerate(self.classes)),
            "args": {"batch": 1, "dynamic": False, "nms": False},
            "channels": self.channels,
            "end2end": bool(getattr(self.net, "end2end", False)),
        }
        if hasattr(last, "kpt_shape"):
            entries["kpt_shape"] = list(last.kpt_shape)
        return {key: str(value) for key, value in entries.items()}

    def quantization_exclusions(self) -> dict[str, str]:
        return head.quantization_exclusions(self.net)

    def example_input(self, batch: int = 1) -> Tensor:
        return example_image(batch, self.channels, self.imgsz)


@dataclass(frozen=True)
class UltralyticsDetector(UltralyticsModel):
    """A model for detectors; also `Trainable`, `LossScheduled` and `Evaluable`."""

    def loss(self, net: nn.Module, batch: Batch, teacher: Teacher | None = None, parts: int = 1) -> Tensor:
        """Ultralytics' own criterion times the batch size, as in its trainer; scalar, in float32. For a part of a batch
        the factor is the size of the whole batch, and each part is normalised by itself. With a teacher: (2,), that and
        the weighted distillation loss (only the latter if `teacher.alone`), and end-to-end networks train only the
        deployed one-to-one head: labels alone supervise it too sparsely to train a backbone, but a teacher supervises
        every anchor."""
        criterion, images = _criterion(net), batch["img"]
        target: Any = None
        if teacher is None:
            outputs = net(images)
        else:
            criterion = getattr(criterion, "one2one", criterion)
            with head.deployed_branch(net):
                outputs = net(images)
            with head.deployed_branch(teacher.net), torch.no_grad():
                target = float32(teacher.net(images))
        # The criterion must not decode boxes in bfloat16, whose resolution is 1 px from 128 px on.
        with torch.autocast(images.device.type, enabled=False):
            outputs = float32(outputs)
            values = []
            if teacher is None or not teacher.alone:
                values.append(criterion(outputs, batch)[0].sum())
            if teacher is not None:
                values.append(teacher.weight * distillation.distance(criterion, outputs, target))
        return parts * (torch.stack(values) if len(values) > 1 else values[0])

    def output_signature(self) -> tuple[object, ...]:
        """Class, number of distance bins and strides of the detection head."""
        last: Any = self.net.model[-1]
        strides = tuple(int(stride) for stride in getattr(last, "stride", ()))
        return type(last).__name__, getattr(last, "reg_max", None), strides

    def schedule_loss(self, net: nn.Module, progress: float) -> None:
        """YOLO26 trains two heads: the loss weight shifts linearly from the one-to-many head, which alone trains the
        backbone, to the one-to-one head, which is deployed. Networks with one head are left unchanged."""
        criterion = _criterion(net)
        if hasattr(criterion, "final_o2m"):
            fraction = min(max(progress, 0.0), 1.0)
            criterion.o2m = criterion.o2m_copy + (criterion.final_o2m - criterion.o2m_copy) * fraction
            criterion.o2o = criterion.total - criterion.o2m

    def decode(self, outputs: Outputs) -> list[Any]:
        return head.decode(outputs, bool(self.net.end2end))


def _criterion(net: Any) -> Any:
    device = next(net.parameters()).device
    cached = _criteria.get(net)
    if cached is None or cached[0] != device:
        cached = _criteria[net] = (device, net.init_criterion())
    return cached[1]
