"""A model as ONNX, and what can be read from an ONNX file without running it."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, shape_inference, version_converter
from torch.utils._pytree import tree_leaves

from compress.capabilities import GivenAsGraph, Model
from compress.errors import TargetFailed
from compress.targets import onnx_macs
from compress.targets.quantization_exclusions import Node

INPUT, OUTPUT = "images", "output0"
LEAST_OPSET = 13  # before it a Q/DQ pair has one scale for all channels

log = logging.getLogger(__name__)

_HIDDEN = "compress.hidden"  # a domain, while the version converter is at work

_WEIGHTS_INPUT = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "Gemm": 1, "MatMul": 1, "MatMulInteger": 1}
_WEIGHTS_INPUT |= {"QLinearConv": 3, "QLinearMatMul": 3}


def export(model: Model, path: Path, opset: int) -> Path:
    """Writes the FP32 graph of `model.deployed()`: static batch 1, input `images`, output `output0` (and `output1` of
    networks that give two tensors), constants folded, `model.metadata()` embedded. A model that is a graph already is
    written in `opset` where its own is newer, or too old to quantize, and can be translated.

    Raises:
        TargetFailed: torch cannot export the network.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        raw, folded = Path(scratch, "raw.onnx"), Path(scratch, "folded.onnx")
        if isinstance(model, GivenAsGraph):
            raw.write_bytes(_in_opset(model.graph, opset).SerializeToString())
        else:
            _torch_export(model, raw, opset)
        optimized(raw, folded, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
        graph = onnx.load(folded)
    save(graph, path, model.metadata())
    return path


def _torch_export(model: Model, path: Path, opset: int) -> None:
    net, example = model.deployed(), model.example_input()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # Tracing warns of every Python number it freezes: shapes are static here on purpose.
            warnings.simplefilter("ignore")
            # The dynamo exporter wants onnxscript, and its node names do not carry the module path.
            outputs = [f"output{index}" for index in range(len(tree_leaves(net(example))))]
            names: dict[str, Any] = {"input_names": [INPUT], "output_names": outputs, "opset_version": opset}
            torch.onnx.export(net, (example,), str(path), dynamo=False, **names)
    except Exception as error:  # torch raises anything from here
        raise TargetFailed(f"torch cannot export this network to ONNX: {error}") from error


def _in_opset(graph: ModelProto, opset: int) -> ModelProto:
    own = own_opset(graph)
    if LEAST_OPSET <= own <= opset:
        return graph
    wanted, copied = max(opset, LEAST_OPSET), ModelProto()
    copied.CopyFrom(graph)
    splits = own >= 18 > wanted  # onnx knows no way down for this one operator, which is in every YOLO
    if splits:
        _hide_splits(copied)
    for version in range(wanted, own) if own > wanted else (wanted,):
        try:
            translated = version_converter.convert_version(copied, version)
        except Exception as error:  # from C++: it knows no way for some operators
            log.debug("opset %d to %d: %s", own, version, error)
            continue
        if splits:
            _show_splits(translated)
        if version != wanted:
            log.warning("the graph is in opset %d: there is no way from %d to %d", version, own, wanted)
        return translated
    log.warning("the graph stays in opset %d: there is no way to %d", own, wanted)
    return graph


def _hide_splits(graph: ModelProto) -> None:
    """Writes Split as before opset 18, with the sizes of its parts, and out of the version converter's sight."""
    shapes = static_shapes(graph)
    for index, node in enumerate(graph.graph.node):
        if node.op_type != "Split":
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        kept = [attribute for attribute in node.attribute if attribute.name == "axis"]
        del node.attribute[:]
        node.attribute.extend(kept)
        if len(node.input) < 2:
            sizes = [shapes[name][axis] for name in node.output]
            graph.graph.initializer.append(
                helper.make_tensor(f"{_HIDDEN}/{index}", TensorProto.INT64, [len(sizes)], sizes)
            )
            node.input.append(f"{_HIDDEN}/{index}")
        node.domain = _HIDDEN
    graph.opset_import.append(helper.make_opsetid(_HIDDEN, 1))


def _show_splits(graph: ModelProto) -> None:
    for node in graph.graph.node:
        node.domain = "" if node.domain == _HIDDEN else node.domain
    known = [opset for opset in graph.opset_import if opset.domain != _HIDDEN]
    del graph.opset_import[:]
    graph.opset_import.extend(known)


def own_opset(graph: ModelProto) -> int:
    """The version of standard ONNX that a graph is written in; 0 where it does not say."""
    return next((opset.version for opset in graph.opset_import if opset.domain in ("", "ai.onnx")), 0)


def optimized(source: Path, path: Path, level: Any) -> None:
    """Writes the graph as ONNX Runtime rewrites it. ORT_ENABLE_BASIC folds constants and stays standard ONNX."""
    options = session_options(threads=1)
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path)
    open_session(source, options)


def session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: warnings here only say that the host's kernels shape a saved graph
    # A saturated attention fills its softmax with denormals, and the product behind it then takes up to 90 times
    # longer. ONNX Runtime asks the first session of a process only, so every session here says it.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # Otherwise a session's threads go on spinning after a run and take the cores from whichever model runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def open_session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Raises TargetFailed when ONNX Runtime refuses the file."""
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no public base class
        raise TargetFailed(f"ONNX Runtime cannot open {path}: {error}") from error


def read(path: Path) -> ModelProto:
    """Raises TargetFailed for a missing or damaged file."""
    try:
        return onnx.load(path)
    except Exception as error:  # protobuf's DecodeError is not importable under a stable name
        raise TargetFailed(f"not a readable ONNX file: {path}: {error}") from error


def save(graph: ModelProto, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a graph with `metadata`, free of what no runtime reads: doc strings, shapes that can be inferred again,
    operator sets that are declared and not used."""
    graph.doc_string = graph.graph.doc_string = ""
    for node in graph.graph.node:
        node.doc_string = ""
    del graph.graph.value_info[:]
    used = {node.domain for node in graph.graph.node} | {""}
    opsets = [opset for opset in graph.opset_import if opset.domain in used]
    del graph.opset_import[:]
    graph.opset_import.extend(opsets)
    onnx.helper.set_model_props(graph, dict(metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def shrink(graph: ModelProto) -> None:
    """Short tensor names and one copy of equal constants: in an INT8 graph of a small network, names and repeated
    zero points outweigh a fifth of the weights. Node names, inputs and outputs stay."""
    first: dict[tuple[Any, ...], str] = {}
    new: dict[str, str] = {value.name: value.name for value in (*graph.graph.input, *graph.graph.output)} | {"": ""}
    constants = []
    for constant in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(constant)
        key = (constant.data_type, tuple(constant.dims), values.tobytes())
        if key not in first:
            first[key] = f"c{len(first)}"
            constants.append(constant)
        new[constant.name] = first[key]
    for constant in constants:
        constant.name = new[constant.name]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(constants)
    for node in graph.graph.node:
        for names in (node.input, node.output):
            names[:] = [new.setdefault(name, f"t{len(new)}") for name in names]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""


def nodes(graph: ModelProto) -> list[Node]:
    """The graph's nodes for `quantization_exclusions`; constants are no nodes, nor are Q/DQ pairs on weights."""
    constant = {initializer.name for initializer in graph.graph.initializer}
    producer: dict[str, NodeProto] = {}
    found = []
    for node in graph.graph.node:
        if all(name in constant for name in node.input):
            constant.update(node.output)
            continue
        parents = tuple(producer[name].name for name in node.input if name in producer)
        at = _WEIGHTS_INPUT.get(node.op_type)
        weighted = at is not None and any(name in constant for name in (node.input[0], node.input[at]))
        found.append(Node(node.name, parents, weighted, product=at is not None and not weighted))
        producer.update(dict.fromkeys(node.output, node))
    return found


def count_macs(path: Path) -> dict[str, int]:
    """{node name: MACs} of the operators with products, at the static shapes.

    Raises:
        TargetFailed: unreadable file, or a shape that cannot be inferred.
    """
    graph = shape_inference.infer_shapes(read(path), data_prop=True)
    shapes = static_shapes(graph)
    return {node.name: onnx_macs.node_macs(node, shapes) for node in graph.graph.node if onnx_macs.has_products(node)}


def static_shapes(graph: ModelProto) -> dict[str, tuple[int, ...]]:
    """{tensor: its shape} of constants, and of what shape inference found a fixed shape for."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes
