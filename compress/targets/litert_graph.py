"""Reads LiteRT files: operators, MACs and INT8 placement."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from onnx import TensorProto

from compress.errors import TargetFailed
from compress.product import Graph
from compress.targets import litert_operators, onnx_graph
from compress.targets.onnx_graph import INPUT
from compress.targets.predictor import LayerMacs
from compress.targets.quantization_exclusions import Node

# {operator with products: (index of the data input, index of the weights or of the second factor)}
PRODUCTS = {"CONV_2D": (0, 1), "DEPTHWISE_CONV_2D": (0, 1), "FULLY_CONNECTED": (0, 1), "BATCH_MATMUL": (0, 1)}
PRODUCTS |= {"TRANSPOSE_CONV": (2, 1)}


def read(path: Path) -> Any:
    """Reads a file into objects of TensorFlow Lite's schema. Raises TargetFailed for a missing or damaged file."""
    try:
        graph = _flatbuffers().read_model(str(path))
        graph.subgraphs[0].operators[0]  # other files may read as an empty graph
        return graph
    except Exception as error:  # struct.error, IndexError, TypeError …: the reader does not validate offsets
        raise TargetFailed(f"not a readable LiteRT file: {path}: {error}") from error


def _flatbuffers() -> Any:
    return importlib.import_module("ai_edge_litert.tools.flatbuffer_utils")


def kind_of(graph: Any, operator: Any) -> str:
    """Name of an operator in TensorFlow Lite's schema."""
    return str(_flatbuffers().opcode_to_name(graph, operator.opcodeIndex))


def type_of(tensor: Any) -> str:
    """Name of the type of a tensor in TensorFlow Lite's schema."""
    return str(_flatbuffers().type_to_name(tensor.type))


def rename_tensors(path: Path) -> None:
    """Shortens the names of tensors to the module path and operator that produce them (`model.0.conv/CONV_2D.2`); input
    and outputs get the names and the order that they have in ONNX. The converter's names take up a tenth of an INT8
    file."""
    graph = read(path)
    subgraph, signature = graph.subgraphs[0], graph.signatureDefs[0]
    names = {}
    for index, operator in enumerate(subgraph.operators):
        # The name of the graph's output has no module path, but those of the operator's weights have.
        tensors = [subgraph.tensors[i] for i in (*operator.outputs, *operator.inputs[1:]) if i >= 0]
        paths = (re.findall("<([^<>]*)>", tensor.name.decode().split(";;")[0]) for tensor in tensors)
        module = next((nested[-1] for nested in paths if nested), "")
        for nth, output in enumerate(operator.outputs):
            short = f"{kind_of(graph, operator)}.{index}" + (f".{nth}" if nth else "")
            names[output] = f"{module}/{short}" if module else short
    for index, tensor in enumerate(subgraph.tensors):
        tensor.name = names.get(index, f"c{index}").encode()
    subgraph.tensors[subgraph.inputs[0]].name = signature.inputs[0].name = INPUT.encode()
    for entry in signature.outputs:
        entry.name = entry.name.replace(b"_", b"")
    ordered = sorted(signature.outputs, key=lambda entry: (len(entry.name), entry.name))  # output0, output1, …
    subgraph.outputs = [entry.tensorIndex for entry in ordered]
    _flatbuffers().write_model(graph, str(path))


def nodes_of(path: Path) -> list[Node]:
    """The graph's operations for `quantization_exclusions`; the converter has already folded constants."""
    graph = read(path)
    tensors, nodes = graph.subgraphs[0].tensors, []
    producers: dict[int, str] = {}
    for operator in graph.subgraphs[0].operators:
        name, kind = tensors[operator.outputs[0]].name.decode(), kind_of(graph, operator)
        parents = tuple(producers[i] for i in operator.inputs if i in producers)
        factors = [operator.inputs[i] for i in PRODUCTS.get(kind, ())]
        weighted = any(graph.buffers[tensors[i].buffer].data is not None for i in factors)
        nodes.append(Node(name, parents, weighted, bool(factors) and not weighted))
        producers.update(dict.fromkeys(operator.outputs, name))
    return nodes


def layers(graph: Graph) -> list[LayerMacs]:
    """MACs of every operator with products; LiteRT runs it in INT8 if both factors are INT8 tensors."""
    operators = litert_operators.to_onnx(read(graph.path))
    kinds = onnx_graph.declared_types(operators)
    factors = {node.name: node.input[:2] for node in operators.graph.node}
    return [
        LayerMacs(name, macs, all(kinds[each] == TensorProto.INT8 for each in factors[name]))
        for name, macs in onnx_graph.products(operators).items()
    ]
