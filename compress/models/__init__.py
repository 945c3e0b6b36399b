"""Model families: what differs between Ultralytics detectors, timm classifiers, a user's own modules and ONNX files."""

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

NATIVE = "model.pt"
CLASSIFIERS = (Family.timm, Family.module)
CHOICES = ("yolo26n", "yolo11n", "yolov8n")  # architectures that conf/model/ names

NETWORK = ("yaml", "name", "target", "args", "task")  # what in a constructor's facts chooses the code that runs

log = logging.getLogger(__name__)

Builder = Callable[[ModelConfig, "tuple[str, ...] | None", "Task | None"], Model]


def _checkpoint(config: ModelConfig, classes: tuple[str, ...] | None, task: Task | None) -> Model:
    if config.path is None:
        raise UserError("model.path", None, "set the checkpoint's folder, e.g. outputs/latest/pruned")
    model = checkpoint.load(Path(config.path), partial(from_constructor, trust=config.trust))
    own_input.check_normalisation(config, model)
    imgsz, channels = config.input
    if channels != model.channels:
        raise UserError("model.channels", channels, f"{config.path} takes {model.channels}: set that, or null")
    if imgsz == model.imgsz:
        return model
    if imgsz % model.stride:
        raise UserError("model.imgsz", imgsz, f"set a multiple of the network's stride, {model.stride}")
    log.warning("model.imgsz=%s, but %s was made for %s: accuracy may suffer", imgsz, config.path, model.imgsz)
    model = model.with_imgsz(imgsz)
    checkpoint.check_computes(model.net, model.example_input(), "model.imgsz", imgsz)
    return model


FAMILIES: dict[Family, Builder] = {
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
    """Raises UserError where `config` names weights or a model that are not there, or an input of absurd size."""
    if (config.imgsz or 0) > checkpoint.MAX_SIDE:
        raise UserError("model.imgsz", config.imgsz, f"set the input side in pixels, at most {checkpoint.MAX_SIDE}")
    for key, given in (("model.weights", config.weights), ("model.init", config.init), ("model.path", config.path)):
        if given is not None and given not in weights.baselines() and not Path(given).exists():
            shipped = ", ".join(weights.baselines()) or "none"
            fetch = "; scripts/fetch_tree_crowns.py fetches those of tree_crowns" if key == "model.init" else ""
            raise UserError(key, given, f"no such file or folder, nor a shipped baseline ({shipped}){fetch}")


def check_task(config: ModelConfig, task: Task | None) -> None:
    """Raises UserError where a family never does what the data is for: said before the data is read or rendered."""
    if config.family in CLASSIFIERS:
        check_same(task if isinstance(task, PlainNetworkTask) else CLASSIFY, task)


def resolve(config: Config) -> Config:
    """`config` with the model's own input size and channels where it names none.

    Raises:
        UserError: a file that cannot be read, or stages and targets that do not work on one.
    """
    if config.model.family is Family.onnx:
        return onnx_model.resolve(config)
    return replace(config, model=own_input.resolve(config.model))


def build(config: ModelConfig, classes: tuple[str, ...] | None = None, task: Task | None = None) -> Model:
    """The model that `config` names, with its weights.

    Args:
        classes: the data's class names; a trained model's own win, but their number must agree.
        task: what the data is for; None where there is no data.

    Raises:
        UserError: anything in `config` that does not work out, or does not suit the data.
    """
    if config.family is not Family.onnx:
        config = own_input.resolve(config)
    model = FAMILIES[config.family](config, classes, task)
    if config.family is not Family.checkpoint:  # that is checked where it is loaded
        _check_network(model, config)
    check_same(model.task, task)
    if classes is not None and len(model.classes) != len(classes):
        raise UserError(
            "model", config.path or config.weights or config.name,
            f"knows {len(model.classes)} classes, the data has {len(classes)}{_start_from(model, config)}",
        )  # fmt: skip
    return model


def _check_network(model: Model, config: ModelConfig) -> None:
    """Raises UserError where the network holds values that nothing computes with, or fails on an image."""
    given = {"weights": config.weights, "init": config.init, "path": config.path, "target": config.target}
    key, source = next(((key, value) for key, value in given.items() if value), ("name", config.name))
    net = model.net if isinstance(model, TorchModel) else model.deployed()
    checkpoint.check_values(net, f"model.{key}", source)
    if key != "name":  # a new network of a known architecture
        checkpoint.check_computes(net, model.example_input(), f"model.{key}", source)


def _start_from(model: Model, config: ModelConfig) -> str:
    """How a network for the data's classes can be trained from the weights of `model`."""
    if not isinstance(model, UltralyticsModel) or config.family is not Family.ultralytics:
        return ""
    given, name = config.path or config.weights, model.name
    known = re.fullmatch(r"yolov?\d+[nslmx](-cls)?", name)  # not the name of a file
    choice = f"model={name}" if name in CHOICES else f"model=yolo26n model.name={name if known else '<architecture>'}"
    return f": to train for the data's classes from these weights, set {choice} model.init={given} and the stage train"


def save_native(model: Model, folder: Path) -> Path | None:
    """Writes `model` as its own library saves models, for use without this package: `model.pt` of an Ultralytics model.

    None, with no such file left in `folder`, where there is no such form: other families, and pruned networks that
    the library's stock blocks cannot hold.
    """
    path = folder / NATIVE
    if isinstance(model, UltralyticsModel) and ultralytics_pt.save(model, path):
        return path
    path.unlink(missing_ok=True)
    return None


def from_constructor(facts: dict[str, Any], trust: bool = False) -> Checkpointable:
    """The unpruned network, with random weights, that `Checkpointable.constructor` described.

    Args:
        trust: whether the facts may name code that this package does not provide, which is then imported and called.

    Raises:
        UserError: facts of an unknown family, incomplete, or naming other code without `trust`.
    """
    family = facts.get("family")
    if not isinstance(family, str) or family not in CONSTRUCTORS:
        raise UserError("checkpoint", family, f"unknown model family; known: {', '.join(CONSTRUCTORS)}")
    try:
        return CONSTRUCTORS[family](facts, trust)
    except KeyError as error:
        raise UserError("checkpoint", family, f"the description of the model lacks {error}") from error
    except (AttributeError, IndexError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise UserError("checkpoint", family, f"the description of the model cannot be read ({error})") from error


def rebuilder(model: Checkpointable) -> Callable[[dict[str, Any]], Checkpointable]:
    """`from_constructor` for what a stage made of `model`: it may name the code that `model` itself was built by,
    and no other."""
    own = json.loads(json.dumps(model.constructor()))  # as it stands in a file: tuples are lists

    def build(facts: dict[str, Any]) -> Checkpointable:
        return from_constructor(facts, all(facts.get(key) == own.get(key) for key in ("family", *NETWORK)))

    return build
