"""A user's ONNX file: read, held against what can be worked on here, and brought to one form.

Whatever wrote the file, what comes out has standard operators on float32, one image in, one tensor out, fixed shapes
and folded constants. What cannot be brought there is refused with one error, before any work.
"""

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
from compress.errors import TargetFailed, UserError, one_line
from compress.targets import onnx_graph, quantization_exclusions

KEY = "model.path"
QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
NARROW = {"FLOAT16", "BFLOAT16"}
WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"}
MAX_ELEMENTS = 2**30  # of one tensor: 4 GiB in float32
CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}


@dataclass(frozen=True)
class OnnxFile:
    """What was found in a file."""

    path: Path
    graph: ModelProto  # as `product.GivenAsGraph` has it
    metadata: dict[str, str]
    imgsz: int  # pixels, square input
    channels: int
    output: tuple[int, ...]  # shape of the answer to one image
    size_bytes: int  # with the weights that stand outside


def read(path: Path, imgsz: int = 0, channels: int = 0) -> OnnxFile:
    """Reads the file at `path`.

    Args:
        imgsz: input side in pixels where the file leaves it open; 0: the file's own.
        channels: input channels where the file leaves them open; 0: the file's own.

    Raises:
        UserError: no such file, a damaged one, or one that cannot be brought to the form above; says why.
    """
    graph, size = _load(path)
    _check_operators(path, graph)
    name, found_channels, side = _fix_input(path, graph, imgsz, channels)
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    graph = _folded(path, graph)
    _check_values(path, graph.graph)
    _name_nodes(graph.graph)
    output = _fix_output(path, graph)
    _rename(graph.graph, {name: onnx_graph.INPUT, output: onnx_graph.OUTPUT})
    shape = onnx_graph.static_shapes(graph)[onnx_graph.OUTPUT]
    return OnnxFile(path, graph, metadata, side, found_channels, shape, size)


def _load(path: Path) -> tuple[ModelProto, int]:
    """The graph with all its weights, functions inlined; and the bytes of the files it came from."""
    if not path.is_file():
        raise UserError(KEY, path, "no such file: use an .onnx file")
    try:
        graph = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError is not importable under a stable name
        raise UserError(KEY, path, f"not a readable ONNX file ({one_line(error)})") from error
    if not graph.graph.node:
        raise UserError(KEY, path, "holds no ONNX graph")
    outside = _outside(path, graph)
    try:
        onnx.load_external_data_for_model(graph, str(path.parent))
        graph = inliner.inline_local_functions(graph) if graph.functions else graph
    except Exception as error:  # OSError, and ValidationError from C++
        why = f"weights that the file keeps outside itself cannot be read ({one_line(error)}): put them beside it"
        raise UserError(KEY, path, why) from error
    return graph, sum(file.stat().st_size for file in (path, *(path.parent / name for name in outside)))


def _outside(path: Path, graph: ModelProto) -> set[str]:
    """Names of the files beside `path` that hold its weights.

    Raises:
        UserError: one that lies elsewhere, is no plain file, or is shorter than what is said to stand in it.
    """
    inner = [attribute for node in _nodes(graph.graph) for attribute in node.attribute]
    tensors = [
        *graph.graph.initializer,
        *(each.t for each in inner),
        *(each for item in inner for each in item.tensors),
    ]
    names: set[str] = set()
    for tensor in tensors:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        name = said.get("location", "")
        file = path.parent / name
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(KEY, path, f"keeps weights in {name!r}, outside its folder: put them beside it")
        if not file.is_file() or file.resolve() != path.parent.resolve() / name:
            raise UserError(KEY, path, f"keeps weights in {name!r}, which is no plain file beside it")
        numbers = [said.get("offset", "0"), said.get("length", "0")]
        ends = all(re.fullmatch(r"[0-9]{1,18}", number) for number in numbers)
        if not ends or sum(map(int, numbers)) > file.stat().st_size:
            raise UserError(KEY, path, f"says that {name!r} holds more than it does (tensor {tensor.name})")
        names.add(name)
    return names


def _check_operators(path: Path, graph: ModelProto) -> None:
    """Raises UserError where runtimes do not know an operator, and where numbers are not float32 any more."""
    opset = onnx_graph.own_opset(graph)
    for node in _nodes(graph.graph):
        what = f"{node.domain}.{node.op_type}".strip(".")
        where = f"operator {what} at node {node.name or node.output[0]}"
        if node.op_type in QUANTIZED or node.op_type.startswith("QLinear"):
            raise UserError(KEY, path, f"is quantized already ({where}): use the float32 file that it was made of")
        known = node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, opset)
        if not known:
            why = f"{where} is none of ONNX opset {opset}: export the model with standard operators only"
            raise UserError(KEY, path, why)
    for tensor in graph.graph.initializer:
        kind = TensorProto.DataType.Name(tensor.data_type)
        if kind in NARROW or kind.startswith("FLOAT8"):
            raise UserError(KEY, path, f"holds {kind} weights ({tensor.name}): use the float32 file")


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node, those of branches and loop bodies too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _fix_input(path: Path, graph: ModelProto, imgsz: int, channels: int) -> tuple[str, int, int]:
    """Fixes the shape of the input, in place: its name, channels and side in pixels."""
    image = _the_image(path, graph.graph)
    kind = image.type.tensor_type
    given = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
    said = f"its input {image.name} is {[dim.dim_param or dim.dim_value or '?' for dim in kind.shape.dim]}"
    if kind.elem_type != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(kind.elem_type).lower()
        raise UserError(KEY, path, f"its input {image.name} is {name}: export it for float32 images in [0, 1]")
    if len(given) != 4:
        raise UserError(KEY, path, f"{said}: an image is (1, channels, height, width)")
    batch, own_channels, height, width = given
    if batch not in (None, 1):
        raise UserError(KEY, path, f"{said}, {batch} images a call: export it with batch 1 or a free one")
    found = own_channels or channels
    if found not in (1, 3):
        why = "say how many with model.channels" if not found else "an image is (1, 1 or 3 channels, height, width)"
        raise UserError(KEY, path, f"{said}: {why}")
    if channels not in (0, found):
        raise UserError("model.channels", channels, f"{path} takes {found}: set model.channels={found}")
    height, width = height or width or imgsz, width or height or imgsz
    if height != width:
        raise UserError(KEY, path, f"{said}: square inputs only, export it with height and width alike")
    if not height:
        raise UserError(KEY, path, f"{said}, of no fixed size: set model.imgsz, or export it with a fixed shape")
    if imgsz not in (0, height):
        why = f"{path} takes {height} px and no other: set model.imgsz={height}, or export the model at {imgsz}"
        raise UserError("model.imgsz", imgsz, why)
    if height > MAX_SIDE:
        raise UserError(KEY, path, f"{said}, taken as {height} px: images of up to {MAX_SIDE} px are understood")
    for dim, value in zip(kind.shape.dim, (1, found, height, width), strict=True):
        dim.dim_value = value  # takes the place of a symbol
    return image.name, found, height


def _the_image(path: Path, graph: GraphProto) -> ValueInfoProto:
    constant = {tensor.name for tensor in graph.initializer}  # before IR 4 these were listed as inputs too
    inputs = [value for value in graph.input if value.name not in constant]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise UserError(KEY, path, f"has {len(inputs)} inputs ({names}): a model takes one image and nothing else")
    del graph.input[:]
    graph.input.extend(inputs)
    return graph.input[0]


def _folded(path: Path, graph: ModelProto) -> ModelProto:
    """The graph as ONNX Runtime writes it with constants folded, shapes inferred anew."""
    del graph.graph.value_info[:]  # of the input's size before
    for output in graph.graph.output:
        output.type.tensor_type.ClearField("shape")
    _check_sizes(path, graph)
    with tempfile.TemporaryDirectory() as scratch:
        raw, folded = Path(scratch, "raw.onnx"), Path(scratch, "folded.onnx")
        try:
            raw.write_bytes(graph.SerializeToString())
            onnx_graph.optimized(raw, folded, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
            found = shape_inference.infer_shapes(onnx_graph.read(folded), data_prop=True)
        except (TargetFailed, ValueError) as error:  # ValueError: protobuf ends at 2 GB
            why = one_line(error.__cause__ or error).replace(str(raw), "it")
            raise UserError(KEY, path, f"ONNX Runtime refuses the file ({why})") from error
    shapes = onnx_graph.static_shapes(found)
    for node in found.graph.node:
        if node.op_type in CONTROL_FLOW:
            why = f"operator {node.op_type} at node {node.name} decides while it runs: export it without"
            raise UserError(KEY, path, why)
        if any(name and name not in shapes for name in node.output):
            why = f"the shape of what {node.op_type} at node {node.name or node.output[0]} gives depends on the image"
            raise UserError(KEY, path, f"{why}: export it with fixed shapes, without non-maximum suppression")
    return found


def _check_sizes(path: Path, graph: ModelProto) -> None:
    """Raises UserError where a tensor would not fit into memory: before anything allocates it."""
    try:
        inferred = shape_inference.infer_shapes(graph, data_prop=True)
    except Exception as error:  # from C++, and ValueError: protobuf ends at 2 GB
        raise UserError(KEY, path, f"its shapes do not agree ({one_line(error)})") from error
    for name, shape in onnx_graph.static_shapes(inferred).items():
        if prod(shape) > MAX_ELEMENTS:
            raise UserError(KEY, path, f"tensor {name} would be {list(shape)}: more than fits into memory")


def _check_values(path: Path, graph: GraphProto) -> None:
    """Raises UserError where a constant holds NaN, or what a layer multiplies by is infinite."""
    multiplied = {name for node in graph.node if node.op_type in WEIGHTED for name in node.input}
    for tensor in graph.initializer:
        if tensor.data_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
            continue
        values = numpy_helper.to_array(tensor)
        if np.isnan(values).any() or (tensor.name in multiplied and np.isinf(values).any()):
            raise UserError(KEY, path, f"tensor {tensor.name} holds infinite values or NaN")


def _fix_output(path: Path, graph: ModelProto) -> str:
    """Name of the one output."""
    outputs = [value.name for value in graph.graph.output]
    if len(outputs) != 1:
        raise UserError(KEY, path, f"has {len(outputs)} outputs ({', '.join(outputs)}): one is understood")
    return outputs[0]


def _name_nodes(graph: GraphProto) -> None:
    """Gives every node a unique name that tells its module: `quantization_exclusions` needs it."""
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
    """Renames tensors, in place; others that already have one of the new names make way."""
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
