"""Ultralytics detectors (YOLOv8, YOLO11, YOLO26 and relatives): built from the YAML files their package ships, or
taken from a trained `best.pt`."""

from __future__ import annotations

import copy
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from compress import distributed
from compress.config import ModelConfig
from compress.errors import UserError
from compress.models import ultralytics_blocks as blocks
from compress.models import ultralytics_distillation as distillation
from compress.models import ultralytics_head as head
from compress.models import weights
from compress.models.ultralytics_package import require_ultralytics
from compress.product import Batch, Detections, Task, Teacher, example_image
from compress.training import float32

FAMILY = "ultralytics"
TRAINING_ONLY = "branch used in training only, not part of the deployed network: nothing to gain"
LAST = "last layer of a detection branch: its channels are box sides and classes"
ATTENTION = "attention: its head sizes are fixed numbers in the code"

log = logging.getLogger(__name__)

# A criterion holds no network, so it goes when its network goes. Kept outside the network, which is deep-copied,
# averaged and saved.
_criteria: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


@dataclass(frozen=True)
class UltralyticsModel:
    """`compress.product.Model` for detection networks of the Ultralytics package."""

    net: Any  # ultralytics.nn.tasks.DetectionModel
    name: str
    imgsz: int
    channels: int
    classes: tuple[str, ...]
    protected: tuple[str, ...] = ()
    task: Task = Task.detect

    @property
    def stride(self) -> int:
        return int(self.net.stride.max())

    def with_net(self, net: nn.Module) -> Self:
        return replace(self, net=net)

    def loss(self, net: nn.Module, batch: Batch, teacher: Teacher | None = None) -> Tensor:
        """Ultralytics' own criterion, times the batch size as their trainer has it; scalar, in float32. Where several
        processes train together that is the size of the whole batch, of which each normalises its share by itself.

        With a teacher the distance from its answers is added, and end-to-end networks learn through the deployed
        one-to-one head alone. By itself that head is too sparsely told what is right to teach a backbone, which is
        why YOLO26 has a second one for training; a teacher speaks at every anchor.
        """
        criterion, images = _criterion(net), batch["img"]
        guide: Any = None
        if teacher is None:
            outputs = net(images)
        else:
            criterion = getattr(criterion, "one2one", criterion)
            with head.deployed_branch(net):
                outputs = net(images)
            with head.deployed_branch(teacher.net), torch.no_grad():
                guide = float32(teacher.net(images))
        # Boxes in bfloat16 have steps of a pixel from 128 px on: the criterion must not decode in it.
        with torch.autocast(images.device.type, enabled=False):
            outputs = float32(outputs)
            value = criterion(outputs, batch)[0].sum()
            if teacher is not None:
                value = value + teacher.weight * distillation.distance(criterion, outputs, guide)
        return value * distributed.world()

    def progress(self, net: nn.Module, share: float) -> None:
        """Tell the loss of `net` how much of the training is done (0 to 1).

        YOLO26 trains two heads: the weight moves linearly from the one-to-many head, which alone teaches the
        backbone, to the one-to-one head, which is deployed. Other networks have one head; nothing to do.
        """
        criterion = _criterion(net)
        if hasattr(criterion, "final_o2m"):
            criterion.o2m = criterion.o2m_copy + (criterion.final_o2m - criterion.o2m_copy) * min(max(share, 0.0), 1.0)
            criterion.o2o = criterion.total - criterion.o2m

    def deployed(self) -> nn.Module:
        """Fused copy, (b, c, s, s) to (b, 300, 6) or (b, 4 + classes, anchors): see `ultralytics_head.deployed`."""
        return head.deployed(self.net, self.example_input())

    def prunable(self) -> tuple[nn.Module, dict[str, str]]:
        net = blocks.split_blocks(copy.deepcopy(self.net)).eval()
        return net, _protected(net) | dict.fromkeys(self.protected, "model.protected")

    def decode(self, outputs: np.ndarray) -> list[Detections]:
        return head.decode(outputs, bool(self.net.end2end))

    def constructor(self) -> dict[str, Any]:
        yaml = {key: value for key, value in self.net.yaml.items() if key != "yaml_file"}
        return {
            "family": FAMILY, "name": self.name, "yaml": yaml, "split": blocks.is_split(self.net),
            "classes": list(self.classes), "channels": self.channels, "imgsz": self.imgsz,
            "protected": list(self.protected),
        }  # fmt: skip

    def metadata(self) -> dict[str, str]:
        """What Ultralytics reads from a graph of batch 1 and fixed size in order to validate or predict with it."""
        import ultralytics

        facts = {
            "description": f"Ultralytics {self.name} model, compressed",
            "version": ultralytics.__version__,
            "license": "AGPL-3.0 License (https://ultralytics.com/license)",
            "stride": self.stride,
            "task": "detect",
            "head": type(_head(self.net)).__name__,
            "batch": 1,
            "imgsz": [self.imgsz, self.imgsz],
            "names": dict(enumerate(self.classes)),
            "args": {"batch": 1, "dynamic": False, "nms": False},
            "channels": self.channels,
            "end2end": bool(self.net.end2end),
        }
        return {key: str(value) for key, value in facts.items()}

    def kept_float(self) -> dict[str, str]:
        return head.kept_float(self.net)

    def example_input(self, batch: int = 1) -> Tensor:
        return example_image(batch, self.channels, self.imgsz)


def build(config: ModelConfig, classes: tuple[str, ...] | None) -> UltralyticsModel:
    """A model from `config.path` (a trained .pt) or `config.name` (an architecture) with `config.weights`.

    Raises:
        UserError: unknown architecture, unreadable or unfitting weights, wrong number of classes.
    """
    require_ultralytics()
    if config.path is not None:
        return _from_pt(config)
    if config.name is None:
        raise UserError(
            "model.name", None, "name an architecture (yolo26n, yolo11n, yolov8n) or give model.path=best.pt"
        )
    given = weights.read(config.weights) if config.weights else None
    if given and given.constructor.get("name", config.name) != config.name:
        raise UserError("model.weights", config.weights, f"these are weights of {given.constructor['name']}")
    classes = (given.classes if given else None) or classes
    yaml = _shipped_yaml(config.name)
    model = _assemble(yaml, config.name, classes, config.channels, config.imgsz, tuple(config.protected))
    if given:
        if given.constructor.get("split"):
            blocks.split_blocks(model.net)
        weights.fill(model.net, given.tensors, str(config.weights))
    elif config.init:
        weights.transfer(model.net, weights.read(config.init, "model.init").tensors, config.init)
    return model


def from_constructor(facts: dict[str, Any]) -> UltralyticsModel:
    """The unpruned network, with random weights, that `UltralyticsModel.constructor` described."""
    require_ultralytics()
    model = _assemble(
        facts["yaml"], facts["name"], tuple(facts["classes"]), facts["channels"], facts["imgsz"],
        tuple(facts["protected"]),
    )  # fmt: skip
    if facts["split"]:
        blocks.split_blocks(model.net)
    return model


def _assemble(
    yaml: dict[str, Any],
    name: str,
    classes: tuple[str, ...] | None,
    channels: int,
    imgsz: int,
    protected: tuple[str, ...],
) -> UltralyticsModel:
    from ultralytics.nn.modules.head import Detect
    from ultralytics.nn.tasks import DetectionModel

    classes = classes or tuple(str(index) for index in range(yaml["nc"]))
    net: Any = DetectionModel(copy.deepcopy(yaml), ch=channels, nc=len(classes), verbose=False)
    if type(_head(net)) is not Detect:
        raise UserError("model.name", name, "only detectors with a plain Detect head are supported, e.g. yolo26n")
    _check_imgsz(net, imgsz)
    return UltralyticsModel(_prepared(net, classes), name, imgsz, channels, classes, protected)


def _from_pt(config: ModelConfig) -> UltralyticsModel:
    from ultralytics.nn.modules.head import Detect
    from ultralytics.nn.tasks import DetectionModel

    path = Path(str(config.path))
    content = weights.unpickle(path, "model.path")
    net: Any = (content.get("ema") or content.get("model")) if isinstance(content, dict) else content
    if not isinstance(net, DetectionModel) or type(_head(net)) is not Detect:
        raise UserError("model.path", path, "holds no Ultralytics detection model")
    if net.is_fused():
        raise UserError("model.path", path, "the model is fused: take the checkpoint that training wrote")
    trained_at = (content.get("train_args") or {}).get("imgsz") if isinstance(content, dict) else None
    if trained_at not in (None, config.imgsz):
        log.warning("model.imgsz=%s, but %s was trained at %s", config.imgsz, path, trained_at)
    net = net.float()
    net.requires_grad_(True)
    classes = tuple(str(net.names[index]) for index in range(_head(net).nc))
    channels = int(net.yaml.get("channels", 3))
    _check_imgsz(net, config.imgsz)
    name = Path(net.yaml.get("yaml_file") or path).stem
    return UltralyticsModel(_prepared(net, classes), name, config.imgsz, channels, classes, tuple(config.protected))


def _head(net: Any) -> Any:
    return net.model[-1]


def _prepared(net: Any, classes: tuple[str, ...]) -> Any:
    from ultralytics.cfg import get_cfg

    net.names = dict(enumerate(classes))
    net.args = get_cfg()  # the gains of the loss; a checkpoint's own are plain dicts and may lack new ones
    net.criterion = None
    if getattr(_head(net), "one2one_cv2", None) is not None:
        net.end2end = True  # deployed through the head that needs no suppression
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = True
    dfl = getattr(getattr(_head(net), "dfl", None), "conv", None)
    if isinstance(dfl, nn.Conv2d):
        dfl.requires_grad_(False)  # a fixed projection, not a weight
    return net


def _shipped_yaml(name: str) -> dict[str, Any]:
    """The architecture file of the installed package, scale included; nothing is looked up on a network."""
    import ultralytics
    from ultralytics.nn.tasks import yaml_model_load

    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    known = {path.stem for path in folder.rglob("*.yaml")}
    stem = re.sub(r"(\d)([nslmx])(-.+)?$", r"\1\3", name)  # yolo26n -> yolo26
    if stem not in known and name not in known:
        plain = sorted(known_name for known_name in known if re.fullmatch(r"yolov?\d+", known_name))
        raise UserError(
            "model.name",
            name,
            f"the ultralytics package ships {', '.join(plain)}, each with a size letter: yolo26n",
        )
    return yaml_model_load(f"{name}.yaml")


def _check_imgsz(net: Any, imgsz: int) -> None:
    stride = int(net.stride.max())
    if imgsz % stride:
        raise UserError("model.imgsz", imgsz, f"give a multiple of the network's stride, {stride}")


def _criterion(net: Any) -> Any:
    device = next(net.parameters()).device
    known = _criteria.get(net)
    if known is None or known[0] != device:
        known = _criteria[net] = (device, net.init_criterion())
    return known[1]


def _protected(net: Any) -> dict[str, str]:
    from ultralytics.nn.modules.block import AAttn, Attention

    kept: dict[str, str] = dict(blocks.unsplit_convolutions(net))
    for name, module in net.named_modules():
        if isinstance(module, (Attention, AAttn)):
            kept[name] = ATTENTION
    detect, prefix = _head(net), f"model.{len(net.model) - 1}"
    for branch in ("cv2", "cv3", "one2one_cv2", "one2one_cv3"):
        idle = detect.end2end and branch in ("cv2", "cv3")
        for level, layers in enumerate(getattr(detect, branch, None) or ()):
            at = f"{prefix}.{branch}.{level}"
            if idle:
                kept |= {
                    f"{at}.{inner}": TRAINING_ONLY for inner, layer in layers.named_modules() if _is_pointwise(layer)
                }
            kept[f"{at}.{len(layers) - 1}"] = LAST
    if isinstance(getattr(detect.dfl, "conv", None), nn.Conv2d):
        kept[f"{prefix}.dfl.conv"] = "a fixed projection, not a weight"
    return kept


def _is_pointwise(layer: nn.Module) -> bool:
    """Not depthwise: a depthwise layer has no channels of its own, it follows its input."""
    return isinstance(layer, nn.Conv2d) and layer.groups == 1
