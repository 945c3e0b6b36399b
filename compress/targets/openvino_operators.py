"""Operators of OpenVINO's IR, written as an ONNX graph for counting
(https://docs.openvino.ai/2026/documentation/openvino-ir-format/operation-sets.html)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from onnx import ModelProto, TensorProto

from compress.targets.operator_graph import OperatorGraph

DOMAIN = "openvino"  # of operators that are not in ONNX, or whose cost is unknown
SAME = """
    Abs Acos Acosh Add Asin Asinh Atan Atanh BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Concat Cos Cosh CumSum
    DepthToSpace Elu Equal Erf Exp Floor Gather GatherElements GatherND Gelu Greater GridSample GroupNormalization
    HardSigmoid IsInf IsNaN LRN Less Log LogSoftmax Mish Mod NonMaxSuppression NonZero OneHot PRelu Pad Range ReduceL1
    ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape ReverseSequence Round Selu Sigmoid Sign
    Sin Sinh Slice Softmax SpaceToDepth Split Sqrt Squeeze Tan Tanh Tile TopK Transpose Unique Unsqueeze
""".split()
RENAMED = {
    **{"Multiply": "Mul", "Subtract": "Sub", "Divide": "Div", "Power": "Pow", "Negative": "Neg", "FloorMod": "Mod"},
    **{"Maximum": "Max", "Minimum": "Min", "Ceiling": "Ceil", "Clamp": "Clip", "Select": "Where", "Convert": "Cast"},
    **{"HSigmoid": "HardSigmoid", "HSwish": "HardSwish", "SoftPlus": "Softplus", "SoftSign": "Softsign"},
    **{"ConvertLike": "CastLike", "Broadcast": "Expand", "StridedSlice": "Slice", "VariadicSplit": "Split"},
    **{"LogicalAnd": "And", "LogicalOr": "Or", "LogicalNot": "Not", "LogicalXor": "Xor", "NotEqual": "Equal"},
    **{"LessEqual": "LessOrEqual", "GreaterEqual": "GreaterOrEqual", "IsFinite": "IsNaN", "ShapeOf": "Shape"},
    **{"ReduceLogicalAnd": "ReduceMin", "ReduceLogicalOr": "ReduceMax", "Eye": "EyeLike", "Roll": "Pad"},
    **{"BatchNormInference": "BatchNormalization", "MVN": "MeanVarianceNormalization", "RMS": "RMSNormalization"},
    **{"NormalizeL2": "LpNormalization", "ROIAlign": "RoiAlign", "AdaptiveAvgPool": "GlobalAveragePool"},
    **{"AdaptiveMaxPool": "GlobalMaxPool", "ScatterNDUpdate": "ScatterND", "ScatterUpdate": "ScatterElements"},
    **{"ScatterElementsUpdate": "ScatterElements", "BatchToSpace": "DepthToSpace", "SpaceToBatch": "SpaceToDepth"},
    **{"ShuffleChannels": "DepthToSpace", "ReorgYolo": "SpaceToDepth", "Einsum": "Einsum", "MatMul": "MatMul"},
    **{"MaxPool": "MaxPool", "AvgPool": "AveragePool", "Interpolate": "Resize"},
    **dict(zip(SAME, SAME, strict=True)),
}
CONVOLUTIONS = {
    **{"Convolution": "Conv", "GroupConvolution": "Conv"},
    **{"ConvolutionBackpropData": "ConvTranspose", "GroupConvolutionBackpropData": "ConvTranspose"},
}
RECURRENT = tuple(f"{kind}{form}" for kind in ("GRU", "LSTM", "RNN") for form in ("Cell", "Sequence"))
TYPES = {
    **{"f64": TensorProto.DOUBLE, "f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16},
    **{"i64": TensorProto.INT64, "i32": TensorProto.INT32, "i16": TensorProto.INT16, "i8": TensorProto.INT8},
    **{"u64": TensorProto.UINT64, "u32": TensorProto.UINT32, "u16": TensorProto.UINT16, "u8": TensorProto.UINT8},
    **{"i4": TensorProto.INT4, "u4": TensorProto.UINT4, "nf4": TensorProto.UINT4, "boolean": TensorProto.BOOL},
    **{"f8e4m3": TensorProto.FLOAT8E4M3FN, "f8e5m2": TensorProto.FLOAT8E5M2},
}
# Through these, a constant that is expanded to floats before its use still counts in the type that it is stored in.
EXPANDED = {"Convert", "Subtract", "Multiply", "Reshape", "Transpose", "FakeQuantize"}


def to_onnx(model: Any) -> ModelProto:
    """The operators of an `openvino.Model`, named as in the file. Weights have the type that they are stored in, and
    weights of a FakeQuantize are INT8, as runtimes compute them. A FakeQuantize of activations is a pair of
    QuantizeLinear and DequantizeLinear, and a constant added to a convolution is its bias."""
    return _Translation(model).result


class _Translation:
    def __init__(self, model: Any) -> None:
        self.graph = OperatorGraph()
        self.names: dict[str, str] = {}  # {output of an operation: tensor}
        self.sums: dict[str, tuple[Any, list[str]]] = {}  # {output of a convolution whose bias follows: it, its inputs}
        operations = model.get_ordered_ops()
        self.constants = _constants(operations)
        inputs, outputs = [], []
        for operation in operations:
            kind, sources = operation.get_type_name(), [_key(value) for value in operation.input_values()]
            if kind == "Result":
                outputs.append(self.names[sources[0]])
            elif kind == "Parameter":
                inputs += self._declared(operation)
            elif any(_key(value) in self.constants for value in operation.outputs()):
                self._constant(operation, kind, sources)
            else:
                self._operator(operation, kind, [self.names[source] for source in sources])
        self.result = self.graph.build(inputs, outputs)

    def _declared(self, operation: Any) -> list[str]:
        """Declares the outputs of an operation."""
        for value in operation.outputs():
            shape = value.get_partial_shape()
            static = tuple(shape.to_shape()) if shape.is_static else None
            self.names[_key(value)] = self.graph.value(_key(value), _type(value), static)
        return [self.names[_key(value)] for value in operation.outputs()]

    def _constant(self, operation: Any, kind: str, sources: list[str]) -> None:
        for value in operation.outputs():
            name, stored, shape = _key(value), _type(value), tuple(value.get_shape())
            root = self.names[sources[0]] if kind in EXPANDED else ""
            if root and prod(self.graph.shape_of(root) or ()) == prod(shape):
                name, stored = root, _integer(operation) if kind == "FakeQuantize" else self.graph.declared(root)[0]
                name += " quantized" if kind == "FakeQuantize" else ""
            self.names[_key(value)] = self.graph.constant(name, stored, shape)

    def _operator(self, operation: Any, kind: str, inputs: list[str]) -> None:
        name, outputs, attributes = operation.friendly_name, self._declared(operation), operation.get_attributes()
        if kind in CONVOLUTIONS and self._is_biased(operation):
            self.sums[outputs[0]] = operation, inputs[:2]
        elif kind in CONVOLUTIONS:
            self._convolution(operation, inputs[:2], outputs)
        elif kind == "Add" and (product := next((each for each in inputs if each in self.sums), "")):
            bias = inputs[1 - inputs.index(product)]
            bias = self.graph.reshaped(bias, [prod(self.graph.shape_of(bias) or ())])
            convolution, operands = self.sums[product]
            self._convolution(convolution, [*operands, bias], outputs)
        elif kind == "FakeQuantize":
            stored = self.graph.value(f"{outputs[0]} stored", _integer(operation), self.graph.shape_of(outputs[0]))
            self.graph.node("QuantizeLinear", f"{name}/QuantizeLinear", inputs[:1], [stored], kind)
            self.graph.node("DequantizeLinear", f"{name}/DequantizeLinear", [stored], outputs, kind)
        elif kind in RULES:
            RULES[kind](self.graph, operation, inputs, outputs)
        elif kind in RENAMED:
            if "MaxPool" in kind and not any(each.get_target_inputs() for each in operation.outputs()[1:]):
                outputs = outputs[:1]  # the indices of the maxima are written only if something reads them
            self.graph.node(RENAMED[kind], name, inputs, outputs, kind, **_attributes(kind, attributes))
        else:
            self.graph.node(kind, name, inputs, outputs, domain=DOMAIN)

    def _is_biased(self, operation: Any) -> bool:
        """Whether the only reader of a convolution adds a constant per channel."""
        readers = [each.get_node() for each in operation.output(0).get_target_inputs()]
        if len(readers) != 1 or readers[0].get_type_name() != "Add":
            return False
        added = [value for value in readers[0].input_values() if _key(value) in self.constants]
        return len(added) == 1 and prod(added[0].get_shape()) == operation.output(0).get_partial_shape()[1].get_length()

    def _convolution(self, operation: Any, inputs: list[str], outputs: list[str]) -> None:
        """Weights are (out, in, k, k), (in, out, k, k) if transposed, with the number of groups before them if
        grouped."""
        kind, (image, weights, *bias) = operation.get_type_name(), inputs
        groups, shape = 1, self.graph.shape_of(weights) or ()
        if kind.startswith("Group"):
            groups, weights = shape[0], self.graph.reshaped(weights, (shape[0] * shape[1], *shape[2:]))
        name = operation.friendly_name
        self.graph.node(CONVOLUTIONS[kind], name, [image, weights, *bias], outputs, kind, group=groups)


def _constants(operations: Sequence[Any]) -> set[str]:
    """Outputs that do not depend on the image."""
    constants: set[str] = set()
    for operation in operations:
        kind, sources = operation.get_type_name(), {_key(value) for value in operation.input_values()}
        static = all(value.get_partial_shape().is_static for value in operation.outputs())
        if kind == "Constant" or (sources and sources <= constants and static and kind != "Result"):
            constants.update(_key(value) for value in operation.outputs())
    return constants


def _key(value: Any) -> str:
    return f"{value.get_node().get_name()}.{value.get_index()}"


def _type(value: Any) -> int:
    return TYPES.get(value.get_element_type().to_string(), TensorProto.UNDEFINED)


def _integer(operation: Any) -> int:
    """Type of the integers of a FakeQuantize."""
    levels = operation.get_attributes()["levels"]
    return TensorProto.INT4 if levels <= 16 else TensorProto.INT8 if levels <= 256 else TensorProto.INT16


def _attributes(kind: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """What the formulas of ONNX need."""
    if kind in ("MaxPool", "AvgPool"):
        return {"kernel_shape": attributes["kernel"]}
    if kind == "MatMul":
        return {"transA": int(attributes["transpose_a"])}
    if kind == "Einsum":
        return {"equation": attributes["equation"]}
    if kind == "Interpolate":
        return {"mode": attributes["mode"].split("_")[0].replace("bilinear", "linear").replace("bicubic", "cubic")}
    return {}


def _deformable(graph: OperatorGraph, operation: Any, inputs: list[str], outputs: list[str]) -> None:
    image, offsets, weights, *mask = inputs
    graph.node(
        "DeformConv", operation.friendly_name, [image, weights, offsets, "", *mask], outputs, operation.get_type_name()
    )


def _attention(graph: OperatorGraph, operation: Any, inputs: list[str], outputs: list[str]) -> None:
    """Query (…, queries, size), key (…, keys, size), value (…, keys, size of values)."""
    shapes = [graph.shape_of(name) or () for name in inputs[:3]]
    four = [graph.reshaped(n, (1, prod(s[:-2]), *s[-2:])) for n, s in zip(inputs[:3], shapes, strict=True)]
    graph.node("Attention", operation.friendly_name, four, outputs, operation.get_type_name())


def _recurrent(graph: OperatorGraph, operation: Any, inputs: list[str], outputs: list[str]) -> None:
    """Input (batch, inputs) of a cell, (batch, steps, inputs) of a sequence. Weights are (gates x hidden, inputs),
    those of sequences with the number of directions before them; they are after the input, states and lengths."""
    kind = operation.get_type_name()
    first = 2 + kind.startswith("LSTM") + kind.endswith("Sequence")
    read = [inputs[0], *inputs[first : first + 3]]
    if kind.endswith("Cell"):
        read = [graph.reshaped(name, (1, *(graph.shape_of(name) or ()))) for name in read]
    graph.node(kind.removesuffix("Cell").removesuffix("Sequence"), operation.friendly_name, read, outputs, kind)


def _squared_difference(graph: OperatorGraph, operation: Any, inputs: list[str], outputs: list[str]) -> None:
    difference = graph.value(f"{outputs[0]} difference", *graph.declared(outputs[0]))
    graph.node("Sub", f"{operation.friendly_name}/Sub", inputs, [difference])
    graph.node("Mul", f"{operation.friendly_name}/Mul", [difference, difference], outputs)


def _swish(graph: OperatorGraph, operation: Any, inputs: list[str], outputs: list[str]) -> None:
    """As ONNX files have it."""
    half = graph.value(f"{outputs[0]} sigmoid", *graph.declared(outputs[0]))
    graph.node("Sigmoid", f"{operation.friendly_name}/Sigmoid", inputs[:1], [half], operation.get_type_name())
    graph.node("Mul", operation.friendly_name, [inputs[0], half], outputs, operation.get_type_name())


RULES: dict[str, Callable[[OperatorGraph, Any, list[str], list[str]], None]] = {
    "DeformableConvolution": _deformable,
    "ScaledDotProductAttention": _attention,
    "SquaredDifference": _squared_difference,
    "Swish": _swish,
    **dict.fromkeys(RECURRENT, _recurrent),
}
