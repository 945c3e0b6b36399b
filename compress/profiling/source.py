"""Finds the model or file that a word of the command line names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from compress import models
from compress.capabilities import Model
from compress.config import CONF, compose
from compress.config.messages import nearest
from compress.errors import UserError
from compress.profiling import litert_file, openvino_file, subject
from compress.profiling.subject import Subject

TIMM = "timm/"
ULTRALYTICS = "yolo"  # begins the names of its architectures


FILES = {".xml": openvino_file.read, ".tflite": litert_file.read}


def find(word: str, folder: Path, imgsz: int | None = None, channels: int | None = None) -> Callable[[], Subject]:
    """What `word` names, an OpenVINO IR `.xml`, a LiteRT file `.tflite`, or a model, see `load`: read now, and exported
    to `folder`, if necessary, on call.

    Raises:
        UserError: as `load`, and as the readers of these files.
        TargetFailed: on call, if the model cannot be exported to ONNX.
    """
    path = Path(word)
    if path.suffix not in FILES:
        return partial(subject.of_model, load(word, imgsz, channels), folder)
    found = FILES[path.suffix](path, folder, imgsz, channels)
    return lambda: found


def load(word: str, imgsz: int | None = None, channels: int | None = None) -> Model:
    """The model that `word` names: a choice of the group `model`, an Ultralytics architecture (`yolo11s-seg`),
    `timm/NAME`, an import path (`pkg.module.Net`), a file `.pt` or `.onnx`, or the folder of a checkpoint. An ONNX file
    may be quantized. `imgsz` is the side of its square input in pixels, and `channels` of the image are for ONNX files
    that leave them open; None: the model's own.

    Raises:
        UserError: the word names none of these, the model cannot be built, or its input size is fixed, or open.
    """
    config = compose(["recipe=flops", *_overrides(word)])
    if Path(word).suffix == ".onnx":
        try:
            return models.build_onnx(replace(config.model, imgsz=imgsz, channels=channels))
        except UserError as error:
            raise UserError(_option(error.key), error.value, _option(error.remedy)) from error
    if channels is not None:
        raise UserError("--channels", channels, f"only files leave their channels open: remove it for {word}")
    config = models.resolve(config)
    model = models.build(config.model)
    if imgsz is None or imgsz == model.imgsz:
        return model
    return models.build(replace(config.model, imgsz=imgsz))


def _option(text: str) -> str:
    """Names options of this command instead of keys of the configuration."""
    return text.replace("model.imgsz", "--imgsz").replace("model.channels", "--channels")


def _overrides(word: str) -> list[str]:
    """Overrides of the configuration that select the model."""
    path, choices = Path(word), sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
    quoted = "'" + word.replace("'", "\\'") + "'"
    if path.suffix == ".onnx":
        return ["model=onnx", f"model.path={quoted}"]
    if path.suffix == ".pt":
        return ["model=ultralytics", f"model.path={quoted}"]
    if path.is_dir():
        return ["model=checkpoint", f"model.path={quoted}"]
    if word in choices:
        return [f"model={word}"]
    if word.startswith(TIMM):
        return ["model=timm", f"model.name={word.removeprefix(TIMM)}"]
    if word.startswith(ULTRALYTICS):
        return ["model=ultralytics", f"model.name={word}"]
    if "." in word and all(part.isidentifier() for part in word.split(".")):
        return ["model=module", f"model.target={word}"]
    remedy = "name a file .onnx, .xml, .tflite or .pt, the folder of a checkpoint, timm/NAME, pkg.module.Net, or one of"
    raise UserError("model", word, f"there is no such model{nearest(word, choices)}; {remedy} {', '.join(choices)}")
