"""Model families: Ultralytics networks, timm classifiers, the user's own modules, checkpoints and ONNX files."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from compress import checkpoint
from compress.capabilities import Checkpointable, Model, TorchModel
from compress.config import Config, Family, ModelConfig
from compress.errors import UserError
from compress.models import onnx_model, own_input, plain_network, ultralytics, ultralytics_pt, weights
from compress.models.ultralytics_model import UltralyticsModel
from compress.tasks import CLASSIFY, PlainNetworkTask, Task, check_same

CHOICES = ("yolo26n", "yolo11n", "yolov8n")  # architectures that conf/model/ names
CODE = ("family", "yaml", "name", "target", "args", "task")  # keys of a constructor that select the code to run

log = logging.getLogger(__name__)


def _checkpoint(config: ModelConfig, classes: tuple[str, ...] | None, task: Task | None) -> Model:
    if config.path is None:
        raise UserError("model.path", None, "set the checkpoint's folder, e.g. outputs/latest/pruned")
    model = checkpoint.load(Path(config.path), partial(from_constructor, trust=config.trust))
    own_input.check_normalisation(config, model)
    imgsz, channels = config.input
    if channels != model.channels:
        raise UserError("model.channels", channels, f"{config.path} takes {model.channels} channels: set that or null")
    if imgsz == model.imgsz:
        return model
    if imgsz % model.stride:
        raise UserError("model.imgsz", imgsz, f"set a multiple of the network's stride, {model.stride}")
    log.warning("model.imgsz=%s, but %s was made for %s: accuracy may suffer", imgsz, config.path, model.imgsz)
    model = model.with_imgsz(imgsz)
    checkpoint.check_computes(model.net, model.example_input(), "model.imgsz", imgsz)
    return model


FAMILIES: dict[Family, Callable[[ModelConfig, tuple[str, ...] | None, Task | None], Model]] = {
    Family.ultralytics: ultralytics.build,
    Family.timm: plain_network.build_timm,
    Family.module: plain_network.build_module,
    Family.checkpoint: _checkpoint,
    Family.onnx: onnx_model.build,
}

CONSTRUCTORS: dict[str, Callable[[dict[str, Any], bool], Checkpointable]] = {
    "ultralytics": ultralytics.from_constructor,
    "timm": plain_network.from_constructor,
    "module": plain_network.from_constructor,
}


def check_files(config: ModelConfig) -> None:
    """Raises UserError if `config` names missing weights or a missing model, or an input side above `MAX_SIDE`."""
    if (config.imgsz or 0) > checkpoint.MAX_SIDE:
        raise UserError("model.imgsz", config.imgsz, f"set the input side in pixels, at most {checkpoint.MAX_SIDE}")
    for key, value in (("model.weights", config.weights), ("model.init", config.init), ("model.path", config.path)):
        if value is not None and value not in weights.baselines() and not Path(value).exists():
            shipped = ", ".join(weights.baselines()) or "none"
            fetch = "; for tree_crowns run scripts/fetch_tree_crowns.py" if key == "model.init" else ""
            raise UserError(key, value, f"no such file or folder, and not a shipped baseline ({shipped}){fetch}")


def check_task(config: ModelConfig, task: Task | None) -> None:
    """Raises UserError if the model family does not support the data's task; runs before the data is read."""
    if config.family in (Family.timm, Family.module):
        check_same(task if isinstance(task, PlainNetworkTask) else CLASSIFY, task)


def resolve(config: Config) -> Config:
    """Returns `config` with the input size and channels, and the task of data whose format holds labels of several,
    filled in from the model where they are not set. Raises UserError if the model file cannot be read, or a stage or
    target does not support it."""
    if config.model.family is Family.onnx:
        return onnx_model.resolve(config)
    config = replace(config, model=own_input.resolve(config.model))
    own = own_input.task_of(config.model) if own_input.reads_task(config) else None
    return own_input.with_task(config, None if own is None else own.name)


def build(config: ModelConfig, classes: tuple[str, ...] | None = None, task: Task | None = None) -> Model:
    """Builds the model that `config` names and loads its weights. `classes` and `task` are those of the data, None
    without data. A trained model keeps its own class names. Raises UserError for an invalid configuration, or a model
    that does not match the data's task or number of classes."""
    if config.family is not Family.onnx:
        config = own_input.resolve(config)
    model = FAMILIES[config.family](config, classes, task)
    if config.family is not Family.checkpoint:  # `checkpoint.load` has checked it
        _check_network(model, config)
    check_same(model.task, task)
    if classes is not None and len(model.classes) != len(classes):
        why = f"has {len(model.classes)} classes, the data has {len(classes)}{_start_from(model, config)}"
        raise UserError("model", config.path or config.weights or config.name, why)
    return model


def build_onnx(config: ModelConfig) -> Model:
    """The model of the ONNX file `config.path`, which may be quantized: to be counted and timed, nothing else. Raises
    UserError as `build` does."""
    check_files(config)
    model = onnx_model.build(config, None, quantized=True)
    _check_network(model, config)
    return model


def _check_network(model: Model, config: ModelConfig) -> None:
    sources = {"weights": config.weights, "init": config.init, "path": config.path, "target": config.target}
    key, source = next(((key, value) for key, value in sources.items() if value), ("name", config.name))
    net = model.net if isinstance(model, TorchModel) else model.deployed()
    checkpoint.check_values(net, f"model.{key}", source)
    if key != "name":  # a new network of a known architecture needs no check
        checkpoint.check_computes(net, model.example_input(), f"model.{key}", source)


def _start_from(model: Model, config: ModelConfig) -> str:
    """Hint on how to train for the data's classes from the weights of `model`; empty for other families."""
    if not isinstance(model, UltralyticsModel) or config.family is not Family.ultralytics:
        return ""
    source, name = config.path or config.weights, model.name
    known = re.fullmatch(r"yolov?\d+[nslmx](-cls)?", name)  # otherwise the name of a file
    choice = f"model={name}" if name in CHOICES else f"model=yolo26n model.name={name if known else '<architecture>'}"
    return f": to train for the data's classes from these weights, set {choice} model.init={source} and add stage train"


def save_native(model: Model, folder: Path) -> Path | None:
    """Writes `model` in the format of its own library, for use without this package: `model.pt` for Ultralytics.
    Returns its path, or None, with any old file removed, if there is no such format: for other families, and for pruned
    networks that the library's stock blocks cannot represent."""
    path = folder / "model.pt"
    if isinstance(model, UltralyticsModel) and ultralytics_pt.save(model, path):
        return path
    path.unlink(missing_ok=True)
    return None


def from_constructor(constructor: dict[str, Any], trust: bool = False) -> Checkpointable:
    """Builds the unpruned network, with random weights, that `Checkpointable.constructor` describes. With `trust` it
    may name code that this package does not provide, which is then imported and called. Raises UserError for an unknown
    family, missing or unreadable values, or other code without `trust`."""
    family = constructor.get("family")
    if not isinstance(family, str) or family not in CONSTRUCTORS:
        raise UserError("checkpoint", family, f"unknown model family: choose from {', '.join(CONSTRUCTORS)}")
    try:
        return CONSTRUCTORS[family](constructor, trust)
    except KeyError as error:
        raise UserError("checkpoint", family, f"the description of the model lacks {error}") from error
    except (AttributeError, IndexError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise UserError("checkpoint", family, f"the description of the model cannot be read ({error})") from error


def rebuilder(model: Checkpointable) -> Callable[[dict[str, Any]], Checkpointable]:
    """Returns a `from_constructor` for networks derived from `model`. Of code outside this package, they may name
    only the code that built `model`."""
    own = json.loads(json.dumps(model.constructor()))  # as read from a file: tuples are lists
    return lambda read: from_constructor(read, trust=all(read.get(key) == own.get(key) for key in CODE))
