"""What `compress profile` counts and times: the operators of a model, and the files that runtimes run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto
from torch import nn

from compress import targets
from compress.capabilities import Model, TorchModel
from compress.checkpoint import MAX_SIDE
from compress.config import ExportConfig
from compress.errors import UserError
from compress.measurement.layer_latency import node_seconds
from compress.product import Graph

COLOURS = 4  # most channels of an image, if nothing else tells whether they are last
RUNTIMES = ("onnxruntime", "openvino")  # of models; both read ONNX files


@dataclass(frozen=True)
class Subject:
    """A model or a file of another format than ONNX, for one image."""

    imgsz: int  # pixels, of the longer side
    image: np.ndarray
    graph: ModelProto  # operators with the names that the runtime's profiler has
    size_bytes: int  # of the file and its weights
    files: Mapping[str, Graph]  # {runtime: what it runs}
    # {operator: seconds} with a number of threads, see `layer_latency.node_seconds`; None: the runtime tells no times.
    operator_seconds: Callable[[int], dict[str, float]] | None
    arena_bytes: int | None = None  # of the activations as the runtime places them, if the file determines that
    net: nn.Module | None = field(default=None, repr=False)  # before fusing; None for files


def of_model(model: Model, folder: Path) -> Subject:
    """Exports a model into `folder`. Layers are those of its ONNX file, so that torch networks and ONNX files are
    profiled alike. Raises TargetFailed if it cannot be exported to ONNX."""
    first, image = targets.get(RUNTIMES[0]).convert(model, folder, ExportConfig()), model.example_input().numpy()
    return Subject(
        model.imgsz, image, onnx.load(first.path), first.path.stat().st_size,
        {name: replace(first, target=name) for name in RUNTIMES},
        partial(node_seconds, first.path, image), net=model.net if isinstance(model, TorchModel) else None,
    )  # fmt: skip


def image_shape(path: Path, own: Sequence[int | None], imgsz: int | None, channels: int | None) -> tuple[int, ...]:
    """Shape of the one image that a file takes, (1, c, h, w) or (1, h, w, c): the file's `own` with open dimensions,
    None, set to batch 1, `channels` and a square of side `imgsz`, in pixels.

    Raises:
        UserError: the input is no image, or a size stays open, is too large or is not the one that the file takes.
    """
    shape = f"its input has shape {['?' if size is None else size for size in own]}"
    if len(own) != 4 or own[0] not in (None, 1):
        raise UserError("model", path, f"{shape}: export it for one image, with four dimensions and batch 1")
    channel = 3 if own[3] is not None and own[3] < (own[1] or COLOURS + 1) else 1
    sizes = {0: 1, 1: imgsz, 2: imgsz, 3: imgsz, channel: channels}
    fixed = [sizes[axis] if size is None else size for axis, size in enumerate(own)]
    options = ("--channels" if axis == channel else "--imgsz" for axis, size in enumerate(fixed) if size is None)
    if missing := " and ".join(dict.fromkeys(options)):
        raise UserError("model", path, f"{shape}: set {missing}, or export it with a fixed size")
    result = tuple(size for size in fixed if size is not None)
    if channels not in (None, result[channel]):
        raise UserError("--channels", channels, f"{path} takes {result[channel]} channels: remove the option")
    sides = [size for axis, size in enumerate(result) if axis not in (0, channel)]
    if imgsz is not None and imgsz not in sides:
        raise UserError("--imgsz", imgsz, f"{path} takes only {' x '.join(map(str, sides))} px: remove the option")
    if max(sides) > MAX_SIDE:
        raise UserError("model", path, f"{shape}, a side of {max(sides)} px: set at most {MAX_SIDE} px")
    return result


def longer_side(shape: tuple[int, ...]) -> int:
    """Of an image (1, c, h, w) or (1, h, w, c), in pixels: the channels are fewer."""
    return max(shape)


def image_of(shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """A random image of a shape and type."""
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    return values.astype(kind) if kind.kind == "f" else (values * np.iinfo(kind).max).astype(kind)
