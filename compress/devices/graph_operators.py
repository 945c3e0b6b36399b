"""Reads the operators that a runtime executes from an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from onnx import ModelProto, NodeProto

from compress.devices.operators import Operator
from compress.errors import UserError
from compress.targets import onnx_graph, onnx_macs

# Activation functions of one node, which every runtime computes within the convolution or product before them.
ACTIVATIONS = set("Relu LeakyRelu Clip Sigmoid Tanh HardSigmoid HardSwish Swish Gelu Elu PRelu".split())
WITHOUT_WORK = set("Reshape Flatten Squeeze Unsqueeze Identity Dropout Constant Shape Cast".split())
READ_IN_PART = set("Slice Gather GatherElements GatherND".split())


def read(graph: ModelProto) -> list[Operator]:
    """The operators of an FP32 graph, in order of execution. Runtimes fuse a convolution with its activation function,
    and a change of shape is no operator, so these are fewer than the nodes. Raises UserError if the shape of a tensor
    is unknown, or if the products of a node are; it names the node."""
    return [operator for _, operator in read_named(graph)]


def read_named(graph: ModelProto) -> list[tuple[str, Operator]]:
    """As `read`, with the name of the node of each operator."""
    shapes = onnx_graph.static_shapes(onnx_graph.with_shapes(graph))
    constants = {tensor.name for tensor in graph.graph.initializer}
    fused, silu = _activations(graph.graph.node)
    result = []
    for node in graph.graph.node:
        if node.op_type in WITHOUT_WORK or (node.input and fused.get(node.input[0]) is node):
            continue
        if not onnx_macs.is_known(node):
            remedy = "the products of this operator cannot be counted: use other operators instead"
            raise UserError("model", f"{node.name}: {node.op_type}", remedy)
        if unknown := [name for name in (*node.input, *node.output) if name and name not in shapes]:
            remedy = f"the shape of its tensor {unknown[0]} is unknown: export the model with fixed shapes"
            raise UserError("model", f"{node.name}: {node.op_type}", remedy)
        operator = _operator(node, shapes, constants, node.output[0] in silu)
        if activation := fused.get(node.output[0]):
            operator = replace(operator, activation=activation.op_type)
        result.append((node.name, operator))
    return result


def _operator(node: NodeProto, shapes: Mapping[str, tuple[int, ...]], constants: set[str], fusible: bool) -> Operator:
    written = sum(prod(shapes[name]) for name in node.output if name)
    read = sum(prod(shapes[name]) for name in dict.fromkeys(node.input) if name and name not in constants)
    if node.op_type in READ_IN_PART:
        read = written
    macs = onnx_macs.node_macs(node, shapes)
    weights = sum(prod(shapes[name]) for name in node.input if name in constants) if macs else 0
    operator = Operator(macs, read + written, weights, 0, fusible, node.op_type, written, taps=_window(node))
    return _product(node, shapes, operator) if macs else operator


def _product(node: NodeProto, shapes: Mapping[str, tuple[int, ...]], operator: Operator) -> Operator:
    """Adds the sizes of the matrices of a convolution or product."""
    output = shapes[node.output[0]]
    if "Conv" not in node.op_type:
        if operator.weights:
            return replace(operator, kind="MatMul", rows=output[-1], columns=operator.macs // prod(output))
        groups = prod(output[:-2])
        return replace(operator, kind="Product", columns=operator.macs // prod(output), groups=groups)
    kernel = shapes[node.input[1]]  # (out, in / groups, …), transposed (in, out / groups, …)
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    rows, columns = kernel[0] // groups, kernel[1]
    if node.op_type == "ConvTranspose":
        rows, columns = kernel[1], kernel[0] // groups
    kind = "DepthwiseConv" if node.op_type == "Conv" and columns == 1 < groups else node.op_type
    rows = rows if operator.weights else 0
    return replace(operator, kind=kind, rows=rows, columns=columns, groups=groups, taps=prod(kernel[2:]))


def activations(nodes: Sequence[NodeProto]) -> set[str]:
    """First outputs of the nodes that are an activation function: of any one node, and of the two of a SiLU."""
    return {node.output[0] for node in nodes if node.op_type in ACTIVATIONS} | _activations(nodes)[1]


def _window(node: NodeProto) -> int:
    return next((prod(attribute.ints) for attribute in node.attribute if attribute.name == "kernel_shape"), 1)


def _activations(nodes: Sequence[NodeProto]) -> tuple[dict[str, NodeProto], set[str]]:
    """The activation functions of convolutions and products: {output of the convolution: node of the function} of those
    of one node, and the first outputs of the two nodes of a SiLU, x * sigmoid(x)."""
    producers = {name: node for node in nodes for name in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    fused: dict[str, NodeProto] = {}
    silu: set[str] = set()
    for node in nodes:
        if node.op_type not in ACTIVATIONS or not onnx_macs.has_products(producers.get(node.input[0], node)):
            continue
        factors, after = {node.input[0], node.output[0]}, readers.get(node.output[0], [])
        if len(readers[node.input[0]]) == 1:
            fused[node.input[0]] = node
        elif node.op_type == "Sigmoid" and all(each.op_type == "Mul" and set(each.input) == factors for each in after):
            silu |= {node.output[0], *(each.output[0] for each in after)}
    return fused, silu
