"""Networks of the Ultralytics package (YOLOv8, YOLO11, YOLO26 and relatives), built from the YAML files that the
package ships or loaded from a trained `best.pt`."""

from __future__ import annotations

import copy
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from compress import checkpoint
from compress.config import ModelConfig
from compress.errors import UserError, named
from compress.models import activation, pt_file, ultralytics_yaml, weights
from compress.models import ultralytics_blocks as blocks
from compress.models.ultralytics_classify import UltralyticsClassifier
from compress.models.ultralytics_instances import UltralyticsOBB, UltralyticsPose, UltralyticsSegmenter
from compress.models.ultralytics_model import UltralyticsDetector, UltralyticsModel
from compress.models.ultralytics_package import quiet, require_ultralytics
from compress.tasks import CLASSIFY, DETECT, OBB, POSE, SEGMENT, Task
from compress.tasks.pose import Pose

# {head: (task, class of the network in ultralytics.nn.tasks, class of the model)}. Other subclasses of these heads are
# not supported, because they decode their outputs differently.
HEADS: dict[str, tuple[Task, str, type[UltralyticsModel]]] = {
    "Detect": (DETECT, "DetectionModel", UltralyticsDetector),
    "Classify": (CLASSIFY, "ClassificationModel", UltralyticsClassifier),
    "Segment": (SEGMENT, "SegmentationModel", UltralyticsSegmenter),
    "Pose": (POSE, "PoseModel", UltralyticsPose),
    "OBB": (OBB, "OBBModel", UltralyticsOBB),
}
SUPPORTED = f"supported heads are {', '.join(HEADS)}"
HEADS |= {f"{name}26": HEADS[name] for name in ("Segment", "Pose", "OBB")}

IMGSZ = 640  # pixels: Ultralytics' default

log = logging.getLogger(__name__)


def build(config: ModelConfig, classes: tuple[str, ...] | None, task: Task | None = None) -> UltralyticsModel:
    """Builds a model from `config.path` (a trained .pt) or `config.name` (an architecture) with `config.weights`.
    Raises UserError for an unknown architecture, unreadable or mismatched weights, or a wrong number of classes."""
    require_ultralytics()
    if config.mean is not None:
        why = "Ultralytics networks take pixels in [0, 1] without normalisation: set null"
        raise UserError("model.mean", config.mean, why)
    if config.path is not None:
        try:
            return _from_pt(config)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError("model.path", config.path, f"holds an incomplete network ({named(error)})") from error
    if config.name is None:
        raise UserError("model.name", None, "set an architecture (yolo26n, yolo11n, yolov8n), or model.path=best.pt")
    loaded = weights.read(config.weights, trust=config.trust) if config.weights else None
    if loaded and (own := loaded.constructor.get("name", config.name)) != config.name:
        raise UserError("model.weights", config.weights, f"these are weights of {own}: set model.name={own}")
    classes = (loaded.classes if loaded else None) or classes
    yaml = _shipped_yaml(config.name)
    if isinstance(task, Pose) and "kpt_shape" in yaml:
        yaml["kpt_shape"] = list(task.keypoints)
    imgsz, channels = config.input
    model = _assemble(yaml, config.name, classes, channels, imgsz, config.protected)
    if loaded:
        if loaded.constructor.get("split"):
            blocks.split_blocks(model.net)
        activation.swap(model.net, loaded.constructor.get("activation"))
        weights.fill(model.net, loaded.tensors, str(config.weights))
    elif config.init:
        weights.transfer(model.net, weights.read(config.init, "model.init", config.trust).tensors, config.init)
    return model


def task_of(config: ModelConfig) -> Task | None:
    """The task of the network that `config` names; None if its head is not supported. Raises UserError as `build`."""
    require_ultralytics()
    if config.path is not None:
        net: Any = pt_file.network(pt_file.read(Path(config.path), "model.path", config.trust))
        head = type(net.model[-1]).__name__ if hasattr(net, "model") else ""
        return HEADS[head][0] if head in HEADS else None
    return yaml_task(_shipped_yaml(config.name)) if config.name else None


def yaml_task(yaml: Any) -> Task | None:
    """The task of an architecture; None if its head is not supported."""
    try:
        return HEADS[yaml["head"][-1][2]][0]
    except (LookupError, TypeError):
        return None


def from_constructor(constructor: dict[str, Any], trust: bool = False) -> UltralyticsModel:
    """Builds the unpruned network, with random weights, that `UltralyticsModel.constructor` describes. Without `trust`,
    raises UserError for an architecture that `ultralytics_yaml.check` rejects."""
    require_ultralytics()
    yaml, channels, classes = constructor["yaml"], constructor["channels"], constructor["classes"]
    if not trust:
        ultralytics_yaml.check(yaml, channels, len(classes))
    name, imgsz, protected = constructor["name"], constructor["imgsz"], constructor["protected"]
    model = _assemble(yaml, name, tuple(classes), channels, imgsz, protected)
    if constructor["split"]:
        blocks.split_blocks(model.net)
    activation.swap(model.net, constructor.get("activation"))
    return model


def _assemble(
    yaml: dict[str, Any], name: str, classes: tuple[str, ...] | None, channels: int, imgsz: int, protected: list[str]
) -> UltralyticsModel:
    from ultralytics.nn import tasks

    last = yaml["head"][-1][2]
    if last not in HEADS:
        raise UserError("model.name", name, f"its head is {last}; {SUPPORTED}")
    classes = classes or tuple(map(str, range(yaml["nc"])))
    try:
        with quiet():
            net = getattr(tasks, HEADS[last][1])(copy.deepcopy(yaml), ch=channels, nc=len(classes), verbose=False)
    except Exception as error:  # an architecture of another version of the package, or a damaged one
        why = f"the installed ultralytics cannot build it ({type(error).__name__}: {error})"
        raise UserError("model.name", name, why) from error
    return _model(net, last, name, imgsz, channels, classes, protected)


def _from_pt(config: ModelConfig) -> UltralyticsModel:
    from ultralytics.nn import tasks

    path = Path(str(config.path))
    content = pt_file.read(path, "model.path", config.trust)
    loaded = pt_file.network(content)
    if not isinstance(loaded, tasks.BaseModel):
        raise UserError("model.path", path, "holds no Ultralytics model")
    net: Any = loaded
    last = net.model[-1]
    head = type(last).__name__
    if head not in HEADS or not isinstance(net, getattr(tasks, HEADS[head][1])):
        raise UserError("model.path", path, f"is a {type(net).__name__} with a {head} head; {SUPPORTED}")
    if net.is_fused() or getattr(last, "cv2", last) is None:
        why = "the model is fused: use the checkpoint that training wrote, or a checkpoint folder with model=checkpoint"
        raise UserError("model.path", path, why)
    net.float().requires_grad_(True)
    width = last.linear.out_features if hasattr(last, "linear") else last.nc
    classes = tuple(str(net.names[index]) for index in range(width))
    own_imgsz, channels = _input(content, net)
    imgsz = config.imgsz or own_imgsz or IMGSZ
    if own_imgsz not in (None, imgsz):
        log.warning("model.imgsz=%s, but %s was trained at %s", imgsz, path, own_imgsz)
    if config.channels not in (None, channels):
        raise UserError("model.channels", config.channels, f"{path} was trained on images of {channels} channels")
    if not config.trust:  # stages build the network again from its YAML, parts of which Ultralytics evaluates
        ultralytics_yaml.check(net.yaml, channels, len(classes))
    name = Path(net.yaml.get("yaml_file") or path).stem
    return _model(net, head, name, imgsz, channels, classes, config.protected)


def pt_input(path: Path, key: str, trust: bool) -> tuple[int | None, int | None]:
    """Input side in pixels at which the network in a .pt was trained, and its channels; None if the file lacks them.
    Raises UserError if the file is missing or unreadable, or needs `trust`."""
    require_ultralytics()
    content = pt_file.read(path, key, trust)
    net = pt_file.network(content)
    return _input(content, net) if isinstance(net, nn.Module) else (None, None)


def _input(content: Any, net: Any) -> tuple[int | None, int]:
    """Input side and channels from the `content` of a .pt, see `pt_input`."""
    train_args = content.get("train_args") if isinstance(content, dict) else None
    side = train_args.get("imgsz") if isinstance(train_args, dict) else None
    yaml = getattr(net, "yaml", None)
    channels = yaml.get("channels", 3) if isinstance(yaml, dict) else 3
    valid = type(side) is int and 0 < side <= checkpoint.MAX_SIDE
    return side if valid else None, channels if type(channels) is int and channels > 0 else 3


def _model(
    net: Any, head: str, name: str, imgsz: int, channels: int, classes: tuple[str, ...], protected: list[str]
) -> UltralyticsModel:
    from ultralytics.cfg import get_cfg

    stride = int(net.stride.max())
    if imgsz % stride:
        raise UserError("model.imgsz", imgsz, f"set a multiple of the network's stride, {stride}")
    last = net.model[-1]
    net.names = dict(enumerate(classes))
    net.args = get_cfg()  # gains of the loss; those of a checkpoint are plain dicts and may lack new keys
    net.criterion = None
    if getattr(last, "one2one_cv2", None) is not None:
        net.end2end = True  # deploy the one-to-one head, which needs no non-maximum suppression
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = True
    dfl = getattr(getattr(last, "dfl", None), "conv", None)
    if isinstance(dfl, nn.Conv2d):
        dfl.requires_grad_(False)  # a fixed projection, not a weight
    task, _, kind = HEADS[head]
    if isinstance(task, Pose) and tuple(last.kpt_shape) != task.keypoints:
        task = replace(task, keypoints=tuple(last.kpt_shape))
    return kind(net, name, imgsz, channels, classes, tuple(protected), task)


def _shipped_yaml(name: str) -> dict[str, Any]:
    """The architecture file of the installed package, including the scale; nothing is downloaded."""
    import ultralytics
    from ultralytics.nn.tasks import yaml_model_load

    known = {path.stem for path in (Path(ultralytics.__file__).parent / "cfg" / "models").rglob("*.yaml")}
    stem = re.sub(r"(\d)([nslmx])(-.+)?$", r"\1\3", name)  # yolo26n -> yolo26
    if stem not in known and name not in known:
        plain = sorted(known_name for known_name in known if re.fullmatch(r"yolov?\d+", known_name))
        raise UserError("model.name", name, f"choose from {', '.join(plain)}, with a size letter: e.g. yolo26n")
    return yaml_model_load(f"{name}.yaml")
