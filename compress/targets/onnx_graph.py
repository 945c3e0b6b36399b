"""Exports models to ONNX, and reads nodes, shapes and MACs from ONNX files without running them."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference, version_converter
from torch.utils._pytree import tree_leaves

from compress.capabilities import GivenAsGraph, Model
from compress.errors import TargetFailed
from compress.targets import onnx_macs
from compress.targets.predictor import LayerMacs
from compress.targets.quantization_exclusions import Node
from compress.tasks import Outputs
from compress.tasks.outputs import pack

INPUT, OUTPUTS = "images", "output"  # outputs are numbered from 0
LEAST_OPSET = 13  # the first with per-channel scales in QuantizeLinear and DequantizeLinear

log = logging.getLogger(__name__)

_HIDDEN = "compress.hidden"  # domain of nodes that the version converter must not see
_WEIGHTS_INPUT = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "Gemm": 1, "MatMul": 1, "MatMulInteger": 1}
_WEIGHTS_INPUT |= {"QLinearConv": 3, "QLinearMatMul": 3}


def export(model: Model, path: Path, opset: int) -> Path:
    """Writes the FP32 graph of `model.deployed()`: static batch 1, input `images`, output `output0` (and `output1` of
    networks with two outputs), constants folded, `model.metadata()` embedded. A model that is already an ONNX graph is
    converted to `opset` if its own opset is newer or below `LEAST_OPSET`, and if the ONNX version converter can do it.
    Raises TargetFailed if torch cannot export the network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        raw, folded = Path(scratch, "raw.onnx"), Path(scratch, "folded.onnx")
        if isinstance(model, GivenAsGraph):
            raw.write_bytes(_in_opset(model.graph, opset).SerializeToString())
        else:
            _torch_export(model, raw, opset)
        optimized(raw, folded, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
        save(onnx.load(folded), path, model.metadata())
    return path


def _torch_export(model: Model, path: Path, opset: int) -> None:
    net, example = model.deployed(), model.example_input()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # Tracing warns about every Python number that becomes a constant; shapes are static here on purpose.
            warnings.simplefilter("ignore")
            # The dynamo exporter requires onnxscript, and its node names do not contain the module path.
            outputs = [f"{OUTPUTS}{index}" for index in range(len(tree_leaves(net(example))))]
            torch.onnx.export(
                net, (example,), str(path), dynamo=False,
                input_names=[INPUT], output_names=outputs, opset_version=opset,
            )  # fmt: skip
    except Exception as error:  # torch raises exceptions of any type here
        raise TargetFailed(f"torch cannot export this network to ONNX: {error}") from error


def _in_opset(graph: ModelProto, opset: int) -> ModelProto:
    own = own_opset(graph)
    if LEAST_OPSET <= own <= opset:
        return graph
    requested, copied = max(opset, LEAST_OPSET), ModelProto()
    copied.CopyFrom(graph)
    hide_splits = own >= 18 > requested  # onnx cannot downgrade this operator, which every YOLO contains
    if hide_splits:
        _hide_splits(copied)
    for version in range(requested, own) if own > requested else (requested,):
        try:
            converted = version_converter.convert_version(copied, version)
        except Exception as error:  # from C++, which cannot convert some operators
            log.debug("opset %d to %d: %s", own, version, error)
            continue
        _show_splits(converted)
        if version != requested:
            log.warning("the graph is in opset %d: it cannot be converted from %d to %d", version, own, requested)
        return converted
    log.warning("the graph stays in opset %d: it cannot be converted to %d", own, requested)
    return graph


def _hide_splits(graph: ModelProto) -> None:
    """Rewrites Split to its form before opset 18, with explicit sizes, and hides it from the version converter."""
    shapes = static_shapes(graph)
    for index, node in enumerate(graph.graph.node):
        if node.op_type != "Split":
            continue
        retained = [attribute for attribute in node.attribute if attribute.name == "axis"]
        _replace(node.attribute, retained)
        if len(node.input) < 2:
            axis = retained[0].i if retained else 0
            constant, sizes = f"{_HIDDEN}/{index}", [shapes[name][axis] for name in node.output]
            graph.graph.initializer.append(helper.make_tensor(constant, TensorProto.INT64, [len(sizes)], sizes))
            node.input.append(constant)
        node.domain = _HIDDEN
    graph.opset_import.append(helper.make_opsetid(_HIDDEN, 1))


def _show_splits(graph: ModelProto) -> None:
    for node in graph.graph.node:
        node.domain = node.domain.removeprefix(_HIDDEN)
    _replace(graph.opset_import, [opset for opset in graph.opset_import if opset.domain != _HIDDEN])


def _replace(field: Any, messages: Sequence[Any]) -> None:
    """Replaces the contents of a repeated field of a protobuf message."""
    del field[:]
    field.extend(messages)


def own_opset(graph: ModelProto) -> int:
    """Opset version of a graph's standard ONNX domain; 0 if the graph does not declare it."""
    return next((opset.version for opset in graph.opset_import if opset.domain in ("", "ai.onnx")), 0)


def optimized(source: Path, path: Path, level: Any) -> None:
    """Writes the graph as optimized by ONNX Runtime. ORT_ENABLE_BASIC folds constants and keeps standard ONNX."""
    options = session_options(threads=1)
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path)
    open_session(source, options)


def session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: the warnings state that a saved graph depends on the host's kernels
    # A saturated softmax of an attention layer contains denormals, and the matrix product after it then takes up to 90
    # times longer. ONNX Runtime reads this entry from the first session of a process only, so every session sets it.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # Otherwise a session's threads continue to spin after a run and occupy cores while another model runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def open_session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Opens an ONNX file on the CPU. Raises TargetFailed if ONNX Runtime rejects it."""
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common public base class
        raise TargetFailed(f"ONNX Runtime cannot open {path}: {error}") from error


def runner(session: onnxruntime.InferenceSession) -> Callable[[np.ndarray], Outputs]:
    """Maps an image to the outputs of a session."""
    name = session.get_inputs()[0].name
    return lambda image: pack(session.run(None, {name: image}))


def read(path: Path) -> ModelProto:
    """Reads an ONNX file. Raises TargetFailed if it is missing or damaged."""
    try:
        return onnx.load(path)
    except Exception as error:  # protobuf's DecodeError is not importable under a stable name
        raise TargetFailed(f"not a readable ONNX file: {path}: {error}") from error


def save(graph: ModelProto, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a graph with `metadata`, without content that no runtime needs: doc strings, inferred shapes, and unused
    operator sets. Changes `graph` in place."""
    graph.doc_string = graph.graph.doc_string = ""
    for node in graph.graph.node:
        node.doc_string = ""
    del graph.graph.value_info[:]
    used = {node.domain for node in graph.graph.node} | {""}
    _replace(graph.opset_import, [opset for opset in graph.opset_import if opset.domain in used])
    onnx.helper.set_model_props(graph, dict(metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def shrink(graph: ModelProto) -> None:
    """Shortens tensor names and merges equal constants, in place. In a small INT8 graph, names and repeated zero points
    have more than a fifth of the size of the weights. Node names, inputs and outputs do not change."""
    merged: dict[tuple[Any, ...], str] = {}
    new: dict[str, str] = {value.name: value.name for value in (*graph.graph.input, *graph.graph.output)} | {"": ""}
    constants = []
    for constant in graph.graph.initializer:
        key = (constant.data_type, tuple(constant.dims), numpy_helper.to_array(constant).tobytes())
        if key not in merged:
            merged[key] = f"c{len(merged)}"
            constants.append(constant)
        new[constant.name] = merged[key]
    for constant in constants:
        constant.name = new[constant.name]
    _replace(graph.graph.initializer, constants)
    for node in graph.graph.node:
        for names in (node.input, node.output):
            names[:] = [new.setdefault(name, f"t{len(new)}") for name in names]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""


def nodes(graph: ModelProto) -> list[Node]:
    """The graph's nodes for `quantization_exclusions`, without constants and Q/DQ pairs on weights."""
    constant = {initializer.name for initializer in graph.graph.initializer}
    producer: dict[str, NodeProto] = {}
    reduced = []
    for node in graph.graph.node:
        if all(name in constant for name in node.input):
            constant.update(node.output)
            continue
        parents = tuple(producer[name].name for name in node.input if name in producer)
        index = _WEIGHTS_INPUT.get(node.op_type)
        weighted = index is not None and any(name in constant for name in (node.input[0], node.input[index]))
        reduced.append(Node(node.name, parents, weighted, product=index is not None and not weighted))
        producer.update(dict.fromkeys(node.output, node))
    return reduced


def layers(path: Path, int8: Collection[str]) -> list[LayerMacs]:
    """MACs of every operator with products, at the static shapes; `int8` has the names of the nodes that are computed
    in INT8. Raises TargetFailed for an unreadable file, or a shape that cannot be inferred."""
    return [LayerMacs(name, macs, name in int8) for name, macs in products(with_shapes(read(path))).items()]


def with_shapes(graph: ModelProto) -> ModelProto:
    """The graph with the types and shapes of all tensors: as declared, or inferred if any is not declared."""
    known = {value.name for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info)}
    declared = known.issuperset(name for node in graph.graph.node for name in node.output if name)
    return graph if declared else shape_inference.infer_shapes(graph, data_prop=True)


def products(graph: ModelProto) -> dict[str, int]:
    """{node: MACs} of the operators with products. Raises TargetFailed if a shape is not declared."""
    shapes, nodes = static_shapes(graph), filter(onnx_macs.has_products, graph.graph.node)
    return {node.name: onnx_macs.node_macs(node, shapes) for node in nodes}


def declared_types(graph: ModelProto) -> dict[str, int]:
    """{tensor: ONNX type} of all constants, and of the tensors whose type is declared or inferred."""
    values = (*graph.graph.input, *graph.graph.output, *graph.graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.graph.initializer}


def static_shapes(graph: ModelProto) -> dict[str, tuple[int, ...]]:
    """{tensor: shape} of all constants, and of the graph's tensors whose shape is declared or inferred and static."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes
