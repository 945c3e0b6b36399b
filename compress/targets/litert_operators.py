"""Operators of LiteRT files, written as an ONNX graph for counting (names and layouts: TensorFlow Lite's schema,
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from math import prod
from typing import Any

from onnx import ModelProto, TensorProto

from compress.targets.operator_graph import OperatorGraph

DOMAIN = "litert"  # of operators whose cost is unknown
OPERATORS = {
    **{"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "POW": "Pow", "NEG": "Neg", "ABS": "Abs", "EXP": "Exp"},
    **{"LOG": "Log", "SQRT": "Sqrt", "RSQRT": "Sqrt", "SQUARE": "Mul", "SIN": "Sin", "COS": "Cos", "SIGN": "Sign"},
    **{"FLOOR": "Floor", "CEIL": "Ceil", "ROUND": "Round", "FLOOR_DIV": "Div", "FLOOR_MOD": "Mod", "ADD_N": "Sum"},
    **{"MAXIMUM": "Max", "MINIMUM": "Min", "EQUAL": "Equal", "NOT_EQUAL": "Equal", "LESS": "Less", "WHERE": "NonZero"},
    **{"LESS_EQUAL": "LessOrEqual", "GREATER": "Greater", "GREATER_EQUAL": "GreaterOrEqual", "LOGICAL_AND": "And"},
    **{"LOGICAL_OR": "Or", "LOGICAL_NOT": "Not", "SELECT": "Where", "SELECT_V2": "Where", "CAST": "Cast"},
    **{"RELU": "Relu", "RELU6": "Clip", "RELU_N1_TO_1": "Clip", "RELU_0_TO_1": "Clip", "LEAKY_RELU": "LeakyRelu"},
    **{
        "PRELU": "PRelu",
        "ELU": "Elu",
        "GELU": "Gelu",
        "LOGISTIC": "Sigmoid",
        "TANH": "Tanh",
        "HARD_SWISH": "HardSwish",
    },
    **{"SOFTMAX": "Softmax", "LOG_SOFTMAX": "LogSoftmax", "L2_NORMALIZATION": "LpNormalization", "CUMSUM": "CumSum"},
    **{"LOCAL_RESPONSE_NORMALIZATION": "LRN", "MAX_POOL_2D": "MaxPool", "AVERAGE_POOL_2D": "AveragePool"},
    **{"RESIZE_BILINEAR": "Resize", "RESIZE_NEAREST_NEIGHBOR": "Resize", "MEAN": "ReduceMean", "SUM": "ReduceSum"},
    **{"REDUCE_MAX": "ReduceMax", "REDUCE_MIN": "ReduceMin", "REDUCE_PROD": "ReduceProd", "REDUCE_ANY": "ReduceMax"},
    **{"REDUCE_ALL": "ReduceMin", "ARG_MAX": "ArgMax", "ARG_MIN": "ArgMin", "TOPK_V2": "TopK", "ONE_HOT": "OneHot"},
    **{"RESHAPE": "Reshape", "SQUEEZE": "Squeeze", "EXPAND_DIMS": "Unsqueeze", "TRANSPOSE": "Transpose"},
    **{"SPLIT": "Split", "SPLIT_V": "Split", "UNPACK": "Split", "SLICE": "Slice", "STRIDED_SLICE": "Slice"},
    **{"BROADCAST_TO": "Expand", "CONCATENATION": "Concat", "PACK": "Concat", "PAD": "Pad", "PADV2": "Pad"},
    **{"MIRROR_PAD": "Pad", "TILE": "Tile", "GATHER": "Gather", "GATHER_ND": "GatherND", "EMBEDDING_LOOKUP": "Gather"},
    **{"SCATTER_ND": "ScatterND", "DYNAMIC_UPDATE_SLICE": "ScatterND", "REVERSE_V2": "Pad", "FILL": "ConstantOfShape"},
    **{
        "ZEROS_LIKE": "ConstantOfShape",
        "RANGE": "Range",
        "SHAPE": "Shape",
        "RANK": "Size",
        "QUANTIZE": "QuantizeLinear",
    },
    **{"DEPTH_TO_SPACE": "DepthToSpace", "SPACE_TO_DEPTH": "SpaceToDepth", "DEQUANTIZE": "DequantizeLinear"},
    **{"BATCH_TO_SPACE_ND": "DepthToSpace", "SPACE_TO_BATCH_ND": "SpaceToDepth", "BATCH_MATMUL": "MatMul"},
}
# Activation functions within other operators: the enumeration ActivationFunctionType.
FUSED = {1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH", 5: "SIGN"}
TYPES = {
    **{"FLOAT32": TensorProto.FLOAT, "FLOAT16": TensorProto.FLOAT16, "FLOAT64": TensorProto.DOUBLE},
    **{"INT64": TensorProto.INT64, "INT32": TensorProto.INT32, "INT16": TensorProto.INT16, "INT8": TensorProto.INT8},
    **{"UINT8": TensorProto.UINT8, "INT4": TensorProto.INT4, "BOOL": TensorProto.BOOL, "UINT32": TensorProto.UINT32},
    **{"UINT64": TensorProto.UINT64, "UINT16": TensorProto.UINT16, "BFLOAT16": TensorProto.BFLOAT16},
}


def to_onnx(file: Any) -> ModelProto:
    """The operators of the first subgraph of a file that `litert_graph.read` has read, named by their first outputs.
    Weights have the layout that they have in ONNX, activations keep theirs, channels last. An activation function
    within an operator follows it as an operator of its own."""
    flatbuffers = importlib.import_module("ai_edge_litert.tools.flatbuffer_utils")
    graph, subgraph = OperatorGraph(), file.subgraphs[0]
    names = {-1: ""}
    for index, tensor in enumerate(subgraph.tensors):
        kind = TYPES.get(flatbuffers.type_to_name(tensor.type), TensorProto.UNDEFINED)
        declare = graph.value if file.buffers[tensor.buffer].data is None else graph.constant
        names[index] = declare(f"t{index}", kind, [] if tensor.shape is None else [int(size) for size in tensor.shape])
    constants = {name for name in names.values() if name and graph.is_constant(name)}
    for operator in subgraph.operators:
        own = str(flatbuffers.opcode_to_name(file, operator.opcodeIndex))
        inputs, outputs = ([names[index] for index in each] for each in (operator.inputs, operator.outputs))
        if inputs and constants.issuperset(inputs):
            names[operator.outputs[0]] = _expanded(graph, own, inputs[0], outputs[0])
            constants.add(names[operator.outputs[0]])
            continue
        name = subgraph.tensors[operator.outputs[0]].name.decode(errors="replace").split(";")[0]
        fused = FUSED.get(getattr(operator.builtinOptions, "fusedActivationFunction", 0))
        written = [graph.value(f"{outputs[0]} before {fused}", *graph.declared(outputs[0]))] if fused else outputs
        if own in RULES:
            RULES[own](graph, name, operator.builtinOptions, inputs, written)
        elif own in OPERATORS:
            graph.node(OPERATORS[own], name, inputs, written, own, **_attributes(own, operator.builtinOptions))
        else:
            graph.node(_custom_name(file, operator, own), name, inputs, written, domain=DOMAIN)
        if fused:
            graph.node(OPERATORS[fused], f"{name}:{fused}", written, outputs, fused)
    ends = ([names[index] for index in each] for each in (subgraph.inputs, subgraph.outputs))
    return graph.build(*ends)


def _expanded(graph: OperatorGraph, own: str, source: str, output: str) -> str:
    """The result of an operator on constants, in the type that the file stores."""
    shape = graph.declared(output)[1] or ()
    return source if own == "DEQUANTIZE" else graph.constant(f"{output} folded", graph.declared(source)[0], shape)


def _custom_name(file: Any, operator: Any, own: str) -> str:
    code = file.operatorCodes[operator.opcodeIndex].customCode
    return f"{own}.{code.decode(errors='replace')}" if code else own


def _attributes(own: str, options: Any) -> dict[str, Any]:
    """What the formulas of ONNX need."""
    if own in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
        return {"kernel_shape": [options.filterHeight, options.filterWidth]}
    if own == "BATCH_MATMUL":
        return {"transA": int(options.adjX)}
    return {"mode": "linear"} if own == "RESIZE_BILINEAR" else {}


def _convolution(graph: OperatorGraph, name: str, options: Any, inputs: list[str], outputs: list[str]) -> None:
    """Weights (out, kh, kw, in / groups)."""
    image, weights, *bias = inputs
    (out, height, width, own), channels = graph.shape_of(weights) or (), (graph.shape_of(image) or ())[-1]
    weights = graph.reshaped(weights, (out, own, height, width))
    graph.node("Conv", name, [image, weights, *bias], outputs, "CONV_2D", group=channels // own)


def _depthwise(graph: OperatorGraph, name: str, options: Any, inputs: list[str], outputs: list[str]) -> None:
    """Weights (1, kh, kw, out)."""
    image, weights, *bias = inputs
    (_, height, width, out), channels = graph.shape_of(weights) or (), (graph.shape_of(image) or ())[-1]
    weights = graph.reshaped(weights, (out, 1, height, width))
    graph.node("Conv", name, [image, weights, *bias], outputs, "DEPTHWISE_CONV_2D", group=channels)


def _transposed(graph: OperatorGraph, name: str, options: Any, inputs: list[str], outputs: list[str]) -> None:
    """Inputs: shape of the output, weights (out, kh, kw, in), image."""
    _, weights, image, *bias = inputs
    out, height, width, channels = graph.shape_of(weights) or ()
    weights = graph.reshaped(weights, (channels, out, height, width))
    graph.node("ConvTranspose", name, [image, weights, *bias], outputs, "TRANSPOSE_CONV")


def _linear(graph: OperatorGraph, name: str, options: Any, inputs: list[str], outputs: list[str]) -> None:
    """Weights (out, in); the input may have any shape whose size is a multiple of in."""
    rows, weights, *bias = inputs
    features = (graph.shape_of(weights) or ())[-1]
    rows = graph.reshaped(rows, (prod(graph.shape_of(rows) or ()) // features, features))
    graph.node("Gemm", name, [rows, weights, *bias], outputs, "FULLY_CONNECTED", transB=1)


def _squared_difference(graph: OperatorGraph, name: str, options: Any, inputs: list[str], outputs: list[str]) -> None:
    difference = graph.value(f"{outputs[0]} difference", *graph.declared(outputs[0]))
    graph.node("Sub", f"{name}/Sub", inputs, [difference], "SQUARED_DIFFERENCE")
    graph.node("Mul", f"{name}/Mul", [difference, difference], outputs, "SQUARED_DIFFERENCE")


RULES: dict[str, Callable[[OperatorGraph, str, Any, list[str], list[str]], None]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _linear,
    "SQUARED_DIFFERENCE": _squared_difference,
}
