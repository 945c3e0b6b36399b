"""LiteRT's .tflite files, for `compress profile`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import TargetFailed, UserError, one_line
from compress.product import Graph, Precision
from compress.profiling.subject import Subject, image_of, image_shape, longer_side
from compress.targets import litert, litert_arena, litert_graph, litert_operators

ALIKE = "an export for one image, with fixed sizes"


def read(path: Path, folder: Path, imgsz: int | None = None, channels: int | None = None) -> Subject:
    """Reads a file. Open dimensions of its input are set by `imgsz`, in pixels, and `channels`; the file with these
    sizes is then written to `folder`. LiteRT's Python package has no profiler of operators.

    Raises:
        MissingExtra: LiteRT is not installed.
        UserError: the file is missing or damaged, its input is no image, or its size stays open.
    """
    if not path.is_file():
        raise UserError("model", path, "no such file: use a .tflite file")
    litert.require()
    try:
        file = litert_graph.read(path)
        subgraph = file.subgraphs[0]
        tensors = [subgraph.tensors[index] for index in subgraph.inputs]
        own = _sizes(tensors[0])
    except (TargetFailed, IndexError, TypeError) as error:
        why = one_line(error.__cause__ or error)
        raise UserError("model", path, f"not a LiteRT file, or damaged ({why}): export it again") from error
    if len(tensors) != 1 or len(file.subgraphs) != 1:
        counts = f"{len(tensors)} inputs and {len(file.subgraphs)} subgraphs"
        raise UserError(
            "model", path, f"has {counts}: export it with one image as its only input, without control flow"
        )
    shape = image_shape(path, own, imgsz, channels)
    opened = path
    if list(shape) != list(tensors[0].shape):
        opened = folder / path.name
        _fix(file, shape, path, opened)
    kind = _interpreter(path, opened).get_input_details()[0]["dtype"]
    return Subject(
        longer_side(shape), image_of(shape, np.dtype(kind)), litert_operators.to_onnx(file), path.stat().st_size,
        {litert.NAME: Graph(opened, litert.NAME, Precision.fp32)}, None, litert_arena.arena_bytes(file),
    )  # fmt: skip


def _sizes(tensor: Any) -> list[int | None]:
    """Dimensions of the input, None if open; an open batch is 1."""
    signature = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    return [None if size < 0 else int(size) for size in signature]


def _interpreter(path: Path, file: Path, shape: tuple[int, ...] | None = None) -> Any:
    """An interpreter of a file, with the shapes of all tensors computed, for another shape of the input if given."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # a delegate hides the shapes
        interpreter = Interpreter(str(file), experimental_op_resolver_type=resolver)
        if shape is not None:
            interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], shape)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        why = f" does not take images of shape {list(shape)}" if shape else "LiteRT rejects the file"
        raise UserError("model", path, f"{why.strip()} ({one_line(error)}): use {ALIKE}") from error
    return interpreter


def _fix(file: Any, shape: tuple[int, ...], path: Path, fixed: Path) -> None:
    """Sets the shapes of all tensors for an input of `shape`, in place, and writes the file."""
    found = {each["index"]: each["shape"] for each in _interpreter(path, path, shape).get_tensor_details()}
    for index, tensor in enumerate(file.subgraphs[0].tensors):
        if index in found and file.buffers[tensor.buffer].data is None:
            tensor.shape, tensor.shapeSignature = [int(size) for size in found[index]], None
    importlib.import_module("ai_edge_litert.tools.flatbuffer_utils").write_model(file, str(fixed))
