"""Reads, checks and canonicalises a user's ONNX file: to standard operators on float32, one image as input, fixed
shapes and folded constants. Any other file is rejected with one error, before any work."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, inliner, numpy_helper, shape_inference

from compress.checkpoint import MAX_SIDE
from compress.config import MAX_CHANNELS
from compress.errors import TargetFailed, UserError, one_line
from compress.targets import onnx_graph, quantization_exclusions

KEY = "model.path"
QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
NARROW = {"FLOAT16", "BFLOAT16"}
WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"}
MAX_ELEMENTS = 2**30  # limit for one tensor: 4 GiB in float32
CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}


@dataclass(frozen=True)
class OnnxFile:
    """A checked file and its canonical graph."""

    path: Path
    graph: ModelProto  # see `capabilities.GivenAsGraph.graph`
    metadata: dict[str, str]
    imgsz: int  # pixels, square input
    channels: int
    outputs: dict[str, tuple[int, ...]]  # shapes for one image, by name in the original file, in the graph's order
    size_bytes: int  # of the original file and its external weights


def read(path: Path, imgsz: int = 0, channels: int = 0, quantized: bool = False) -> OnnxFile:
    """Reads the file at `path`. `imgsz`, in pixels, and `channels` are for files with a dynamic input; 0: the file's
    own. `quantized` accepts quantized graphs, to be counted and timed only. Raises UserError for a missing or damaged
    file, or one that cannot be converted to the canonical form."""
    graph, size = _load(path)
    _check_operators(path, graph, quantized)
    name, input_channels, side = _fix_input(path, graph, imgsz, channels)
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    graph = _folded(path, graph)
    _check_values(path, graph.graph)
    _name_nodes(graph.graph)
    canonical = {value.name: f"{onnx_graph.OUTPUTS}{index}" for index, value in enumerate(graph.graph.output)}
    _rename(graph.graph, {name: onnx_graph.INPUT, **canonical})
    shapes = onnx_graph.static_shapes(graph)
    outputs = {own: shapes[renamed] for own, renamed in canonical.items()}
    return OnnxFile(path, graph, metadata, side, input_channels, outputs, size)


def _load(path: Path) -> tuple[ModelProto, int]:
    """The graph with all weights loaded and functions inlined, and the size of its files in bytes."""
    if not path.is_file():
        raise UserError(KEY, path, "no such file: use an .onnx file")
    try:
        graph = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError is not importable under a stable name
        raise UserError(KEY, path, f"not a readable ONNX file ({one_line(error)})") from error
    if not graph.graph.node:
        raise UserError(KEY, path, "holds no ONNX graph")
    external = _external_files(path, graph)
    try:
        onnx.load_external_data_for_model(graph, str(path.parent))
        graph = inliner.inline_local_functions(graph) if graph.functions else graph
    except Exception as error:  # OSError, and ValidationError from C++
        why = f"its external weights cannot be read ({one_line(error)}): put them into its folder"
        raise UserError(KEY, path, why) from error
    return graph, sum(file.stat().st_size for file in (path, *(path.parent / name for name in external)))


def _external_files(path: Path, graph: ModelProto) -> set[str]:
    """Names of the files in the folder of `path` that hold external weights, checked."""
    attributes = [attribute for node in _nodes(graph.graph) for attribute in node.attribute]
    tensors = [*graph.graph.initializer, *(tensor for each in attributes for tensor in (each.t, *each.tensors))]
    names: set[str] = set()
    for tensor in tensors:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        file = path.parent / name
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(KEY, path, f"stores weights in {name!r}, outside its folder: move them into it")
        if not file.is_file() or file.resolve() != path.parent.resolve() / name:
            raise UserError(KEY, path, f"stores weights in {name!r}, which is not a regular file in its folder")
        numbers = [entries.get("offset", "0"), entries.get("length", "0")]
        valid = all(re.fullmatch(r"[0-9]{1,18}", number) for number in numbers)
        if not valid or sum(map(int, numbers)) > file.stat().st_size:
            raise UserError(KEY, path, f"tensor {tensor.name} lies beyond the bounds of {name!r}: export it again")
        names.add(name)
    return names


def is_quantized(graph: ModelProto) -> bool:
    """Whether a graph has quantized operators."""
    return any(node.op_type in QUANTIZED or node.op_type.startswith("QLinear") for node in _nodes(graph.graph))


def _check_operators(path: Path, graph: ModelProto, quantized: bool) -> None:
    """Raises UserError if the graph uses a non-standard operator, has weights below float32, or is quantized (unless
    that is accepted)."""
    opset = onnx_graph.own_opset(graph)
    for node in _nodes(graph.graph):
        operator = f"{node.domain}.{node.op_type}".strip(".")
        where = f"operator {operator} at node {node.name or node.output[0]}"
        if not quantized and (node.op_type in QUANTIZED or node.op_type.startswith("QLinear")):
            raise UserError(KEY, path, f"is already quantized ({where}): use the original float32 file")
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, opset):
            why = f"{where} is not in ONNX opset {opset}: export the model with standard operators only"
            raise UserError(KEY, path, why)
    for tensor in graph.graph.initializer:
        kind = TensorProto.DataType.Name(tensor.data_type)
        if kind in NARROW or kind.startswith("FLOAT8"):
            raise UserError(KEY, path, f"holds {kind} weights ({tensor.name}): use the float32 file")


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yields every node, including those of branches and loop bodies."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _fix_input(path: Path, graph: ModelProto, imgsz: int, channels: int) -> tuple[str, int, int]:
    """Fixes the shape of the input, in place. Returns its name, channels and side in pixels."""
    image = _image_input(path, graph.graph)
    kind = image.type.tensor_type
    dims = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
    shape = f"its input {image.name} has shape {[dim.dim_param or dim.dim_value or '?' for dim in kind.shape.dim]}"
    if kind.elem_type != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(kind.elem_type).lower()
        raise UserError(KEY, path, f"its input {image.name} is {name}: export it for float32 images in [0, 1]")
    if len(dims) != 4:
        raise UserError(KEY, path, f"{shape}: export it with (1, channels, height, width)")
    batch, own_channels, height, width = dims
    if batch not in (None, 1):
        raise UserError(KEY, path, f"{shape}, {batch} images per call: export it with batch 1 or a dynamic batch")
    channels_used = own_channels or channels
    height, width = height or width or imgsz, width or height or imgsz
    open_sizes = {"model.channels": channels_used, "model.imgsz": height}
    if missing := [key for key, value in open_sizes.items() if not value]:
        raise UserError(KEY, path, f"{shape}: set {' and '.join(missing)}, or export it with a fixed size")
    if not 0 < channels_used <= MAX_CHANNELS:
        raise UserError(KEY, path, f"{shape}: export it with (1, 1 to {MAX_CHANNELS} channels, height, width)")
    if channels not in (0, channels_used):
        why = f"{path} takes {channels_used} channels: set model.channels={channels_used}"
        raise UserError("model.channels", channels, why)
    if height != width:
        raise UserError(KEY, path, f"{shape}: export it with a square input, (1, channels, height, width)")
    if imgsz not in (0, height):
        why = f"{path} takes only {height} px: set model.imgsz={height}, or export the model at {imgsz} px"
        raise UserError("model.imgsz", imgsz, why)
    if height > MAX_SIDE:
        raise UserError(KEY, path, f"{shape}, a side of {height} px: export it with at most {MAX_SIDE} px")
    for dim, value in zip(kind.shape.dim, (1, channels_used, height, width), strict=True):
        dim.dim_value = value  # replaces a symbolic dimension
    return image.name, channels_used, height


def _image_input(path: Path, graph: GraphProto) -> ValueInfoProto:
    constant = {tensor.name for tensor in graph.initializer}  # also listed as inputs before IR version 4
    inputs = [value for value in graph.input if value.name not in constant]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise UserError(KEY, path, f"has {len(inputs)} inputs ({names}): export it with one image as its only input")
    del graph.input[:]
    graph.input.extend(inputs)
    return graph.input[0]


def _folded(path: Path, graph: ModelProto) -> ModelProto:
    """The graph with constants folded by ONNX Runtime, and all shapes inferred again."""
    del graph.graph.value_info[:]  # shapes for the previous input size
    for output in graph.graph.output:
        output.type.tensor_type.ClearField("shape")
    _check_sizes(path, graph)
    with tempfile.TemporaryDirectory() as scratch:
        raw, folded = Path(scratch, "raw.onnx"), Path(scratch, "folded.onnx")
        try:
            raw.write_bytes(graph.SerializeToString())
            onnx_graph.optimized(raw, folded, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
            result = shape_inference.infer_shapes(onnx_graph.read(folded), data_prop=True)
        except (TargetFailed, ValueError) as error:  # ValueError: protobuf is limited to 2 GB
            why = one_line(error.__cause__ or error).replace(str(raw), "it")
            raise UserError(KEY, path, f"ONNX Runtime rejects the file ({why})") from error
    shapes = onnx_graph.static_shapes(result)
    for node in result.graph.node:
        if node.op_type in CONTROL_FLOW:
            why = f"operator {node.op_type} at node {node.name} is control flow: export the model without it"
            raise UserError(KEY, path, why)
        if any(name and name not in shapes for name in node.output):
            why = f"the output shape of {node.op_type} at node {node.name or node.output[0]} depends on the image"
            raise UserError(KEY, path, f"{why}: export it with fixed shapes, without non-maximum suppression")
    return result


def _check_sizes(path: Path, graph: ModelProto) -> None:
    """Raises UserError if a tensor would not fit into memory, before any is allocated."""
    try:
        inferred = shape_inference.infer_shapes(graph, data_prop=True)
    except Exception as error:  # from C++, and ValueError: protobuf is limited to 2 GB
        raise UserError(KEY, path, f"its shapes are inconsistent ({one_line(error)})") from error
    for name, shape in onnx_graph.static_shapes(inferred).items():
        if prod(shape) > MAX_ELEMENTS:
            raise UserError(KEY, path, f"tensor {name} would have shape {list(shape)}: more than fits into memory")


def _check_values(path: Path, graph: GraphProto) -> None:
    """Raises UserError if a constant holds NaN, or a layer's weight is infinite. Other constants may be infinite."""
    weights = {name for node in graph.node if node.op_type in WEIGHTED for name in node.input}
    for tensor in graph.initializer:
        if tensor.data_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
            continue
        values = numpy_helper.to_array(tensor)
        if np.isnan(values).any() or (tensor.name in weights and np.isinf(values).any()):
            raise UserError(KEY, path, f"tensor {tensor.name} holds infinite values or NaN")


def _name_nodes(graph: GraphProto) -> None:
    """Sets a unique name with a module path on every node, in place, for `quantization_exclusions`."""
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        name = node.name or f"{node.op_type}_{index}"
        if not quantization_exclusions.module_path(name):
            name = f"/{name.strip('/')}/{node.op_type}"
        while name in taken:
            name += "_"
        taken.add(name)
        node.name = name


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    """Renames tensors, in place; other tensors that already have one of the new names get a suffix."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | set(names.values())
    new = dict(names)
    for name in set(names.values()) - names.keys():
        new[name] = next(free for index in itertools.count() if (free := f"{name}_{index}") not in taken)
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        for value in values:  # type: ignore[attr-defined]
            value.name = new.get(value.name, value.name)
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [new.get(name, name) for name in tensors]
