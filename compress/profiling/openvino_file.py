"""OpenVINO's IR, an .xml file with its weights in a .bin beside it, for `compress profile`."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import UserError, one_line
from compress.measurement.layer_latency import RUNS, WARM_UP
from compress.product import Graph, Precision
from compress.profiling.subject import Subject, image_of, image_shape, longer_side
from compress.targets import openvino, openvino_operators
from compress.targets.openvino_package import package_without_telemetry


def read(path: Path, folder: Path, imgsz: int | None = None, channels: int | None = None) -> Subject:
    """Reads an IR. Open dimensions of its input are set by `imgsz`, in pixels, and `channels`; the IR with these sizes
    is then written to `folder`. No extension is loaded, so that an IR with operators of one is refused.

    Raises:
        UserError: a file is missing or damaged, the input is no image, or its size stays open.
    """
    weights = path.with_suffix(".bin")
    if not path.is_file():
        raise UserError("model", path, "no such file: use an .xml file of OpenVINO, with its .bin beside it")
    if not weights.is_file():
        raise UserError("model", path, f"its weights {weights.name} are not beside it: copy that file there too")
    package = package_without_telemetry()
    try:
        model = package.Core().read_model(path, weights)
    except Exception as error:  # RuntimeError from C++
        raise UserError("model", path, f"not an OpenVINO IR, or damaged ({_reason(error)}): export it again") from error
    if len(model.inputs) != 1:
        raise UserError("model", path, f"has {len(model.inputs)} inputs: export it with one image as its only input")
    own, kind = _sizes(model.input(0)), model.input(0).get_element_type()
    shape = image_shape(path, own, imgsz, channels)
    file = path
    if list(shape) != own:
        file = folder / path.name
        try:
            model.reshape(list(shape))
        except Exception as error:  # RuntimeError from C++
            raise UserError("model", path, f"does not take images of shape {list(shape)}: {_reason(error)}") from error
        package.save_model(model, file, compress_to_fp16=False)
    image = image_of(shape, np.dtype(kind.to_dtype()))
    return Subject(
        longer_side(shape), image, openvino_operators.to_onnx(model), path.stat().st_size + weights.stat().st_size,
        {openvino.NAME: Graph(file, openvino.NAME, Precision.fp32)},
        partial(openvino.node_seconds, file, image, runs=RUNS, warm_up=WARM_UP),
    )  # fmt: skip


def _sizes(value: Any) -> list[int | None]:
    """Dimensions of an input, None if open; none at all if even their number is."""
    shape = value.get_partial_shape()
    dimensions = [] if shape.rank.is_dynamic else list(shape)
    return [None if size.is_dynamic else size.get_length() for size in dimensions]


def _reason(error: Exception) -> str:
    """A message from C++ without the places in its source."""
    return re.sub(r"(Exception from|Check '.*?' failed at) \S+:\d+: *", "", one_line(error))
