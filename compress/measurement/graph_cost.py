"""Cost of an ONNX graph without its torch network, by the conventions of `flops.py`. Files of other formats are counted
as the graphs that `targets.openvino_operators` and `targets.litert_operators` write. MACs and parameters equal those of
the torch network that a graph was exported from. Other FLOPs and traffic differ a little where one operator of ONNX is
several of ATen, or the reverse; the two nodes of SiLU count as one. In `activation_bytes` nothing is computed in
place, so more activations are alive at a time than in torch. Weights that are dequantized are read as they are stored:
runtimes do not write them as floats."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from math import prod

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from compress.errors import UserError
from compress.measurement import fourier
from compress.measurement.activation_memory import Life, peak_bytes, peak_bytes_in_place
from compress.measurement.cost import APART, Cost, LayerCost, Unknown
from compress.targets import onnx_graph, onnx_macs

log = logging.getLogger(__name__)
VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose", "Split", "Slice", "Expand", "Dropout"}
MOVES = """
    Concat Gather GatherElements GatherND ScatterElements ScatterND Pad Tile Cast CastLike Where DepthToSpace
    SpaceToDepth OneHot Trilu Shape Size ConstantOfShape Range EyeLike NonZero
""".split()
ACTIVATIONS = set(
    """
    Sigmoid Tanh HardSigmoid HardSwish Gelu FastGelu QuickGelu Mish Elu Selu Celu Softplus Relu LeakyRelu PRelu
    ThresholdedRelu Softsign Shrink Swish
""".split()
)
ARITHMETIC = set(
    """
    Add Sub Mul Div Pow Min Max Sum Mean Neg Abs Exp Log Sqrt Reciprocal Erf Clip Floor Ceil Round Sign Sin Cos Mod Not
    And Or Where
""".split()
)
GATHERS = {"Gather", "GatherElements", "GatherND"}
PER_OUTPUT = {
    **dict.fromkeys([*VIEWS, *MOVES], 0),
    **dict.fromkeys(("Sigmoid", "Tanh", "HardSigmoid"), 4),
    **{"HardSwish": 5, "Swish": 5, "Gelu": 8, "Mish": 8, "Elu": 3, "Selu": 3, "Celu": 3, "Softplus": 3},
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"), 7),
    **{"BatchNormalization": 2, "Softmax": 5, "LogSoftmax": 6},
}
PER_INPUT = {"GlobalAveragePool", "GlobalMaxPool", "TopK", "ArgMax", "ArgMin", "CumSum"}
BIAS_INPUT = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "FusedConv": 2, "DeformConv": 3}
RESIZES = {"nearest": 0, "linear": 7, "cubic": 35}
# Per hidden state: two biases and a sum per gate, sigmoids, hyperbolic tangents, and the arithmetic of the new state.
RECURRENT = {"LSTM": 36, "GRU": 25, "RNN": 7}
# Positions of inputs that are parameters if constant; None: all. Constants of elementwise arithmetic such as anchors,
# scales, zero points and initial states are no parameters.
LEARNED: dict[str, set[int] | None] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "PRelu", "BatchNormalization", "LayerNormalization")),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization", "RMSNormalization", "FusedConv")),
    **{"DeformConv": {1, 3}, "Gather": {0}},  # tables of embeddings
    **{kind: {1, 2, 3, 7} for kind in ("LSTM", "GRU", "RNN")},
    "Einsum": None,
    **{"QLinearConv": {3, 8}, "QLinearMatMul": {0, 3}, "QGemm": {3, 6}},
    **{"ConvInteger": {1}, "MatMulInteger": {0, 1}, "MatMulIntegerToFloat": {0, 1, 6}},
}
FACTORS = dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), (0, 3))  # inputs that are multiplied; else 0 and 1
# Values that are not changed, so that quantized ones stay quantized: runtimes move integers.
KEEP_FORMAT = VIEWS | {"Concat", "MaxPool", "DepthToSpace", "SpaceToDepth"}
HALF_BYTES = (TensorProto.INT4, TensorProto.UINT4)
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
NARROW = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16)  # quantized activations
INTEGERS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32)  # of quantized weights and biases


def count(graph: ModelProto, unknown: Unknown = "error") -> Cost:
    """Counts one pass of a graph with static shapes and folded constants; `layers` of the result is by node name.

    Args:
        unknown: what to do about operators that may compute products and have no formula. "error" refuses them, "warn"
            logs each once and counts its calls apart, in `Cost.unknown`.

    Raises:
        UserError: products or shapes of a node are unknown (the message names it), or there are no products.
    """
    apart = [node for node in graph.graph.node if not onnx_macs.is_known(node)]
    if apart and unknown == "error":
        remedy = "the products of this operator cannot be counted: use other operators instead"
        raise UserError("model", _where(apart[0]), remedy)
    uncounted = Counter(_operator(node) for node in apart)
    for name in uncounted:
        log.warning(APART, name)
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    declared = onnx_graph.with_shapes(graph)
    shapes = onnx_graph.static_shapes(graph) | onnx_graph.static_shapes(declared)
    kinds = onnx_graph.declared_types(declared)
    stored = {node.output[0]: node.input[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"}

    def size(name: str) -> int:
        name = (
            stored[name] if stored.get(name) in constants else name
        )  # dequantized weights are read as they are stored
        width = onnx.helper.tensor_dtype_to_np_dtype(kinds[name]).itemsize if kinds[name] else 0  # unknown type: 0
        return prod(shapes[name]) * width

    moved_by = {node.output[0]: node for node in graph.graph.node if node.op_type in KEEP_FORMAT}

    def bits_of(name: str) -> int:
        """Bits of a value, before it is dequantized and moved."""
        if name in moved_by and kinds[name] in FLOATS:
            sources = [each for each in moved_by[name].input if each and kinds[each] in FLOATS]
            return max(map(bits_of, sources[:1] if moved_by[name].op_type != "Concat" else sources))
        kind = kinds[stored.get(name, name)]
        return 4 if kind in HALF_BYTES else 8 * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize

    learned, halves = _learned(graph, constants), _silu_halves(graph)
    layers: dict[str, LayerCost] = {}
    # A view has the storage of its input.
    storage = {value.name: value.name for value in graph.graph.input}
    alive = {name: Life(size(name), 0, 0) for name in storage}
    elementwise: list[tuple[Life, list[Life]]] = []  # output and inputs
    for time, node in enumerate(graph.graph.node, start=1):
        weights = any(stored.get(name) in constants for name in node.output)  # that are dequantized
        read, written = [name for name in node.input if name], [name for name in node.output if name]
        if shapeless := [name for name in (*read, *written) if name not in shapes]:
            remedy = f"the shape of its tensor {shapeless[0]} is unknown: export the model with fixed shapes"
            raise UserError("model", _where(node), remedy)
        for name in read:
            if name in storage:
                alive[storage[name]].last_use = time
        view = node.op_type in VIEWS or node.name in halves
        for name in () if weights else written:
            storage[name] = storage.get(node.input[0], name) if view else name
            alive.setdefault(storage[name], Life(size(storage[name]), time, time))
        if is_elementwise(node) and not view:
            elementwise.append((alive[storage[written[0]]], [alive[storage[name]] for name in read if name in storage]))
        macs = onnx_macs.node_macs(node, shapes)
        # An input that is passed twice is read once, and an expanded tensor has the size of its storage.
        most = size(written[0]) if node.op_type in GATHERS else size(read[0]) if read else 0  # of the first input
        sources = {(storage.get(name, name), min(size(name), most) if name == read[0] else size(name)) for name in read}
        moved = (
            0 if view or weights else sum(min(nbytes, size(name)) for name, nbytes in sources) + sum(map(size, written))
        )
        parameters = () if weights else dict.fromkeys(stored.get(name, name) for name in read)
        params = sum(prod(shapes[name]) for name in parameters if name in learned)
        other = 0 if weights or _operator(node) in uncounted else _other_flops(node, shapes, kinds, constants)
        by_kind = {kind_of(node): other} if other else {}
        bits = macs * prod(bits_of(node.input[index]) for index in FACTORS.get(node.op_type, (0, 1))) if macs else 0
        layers[node.name] = LayerCost(macs, params, moved, shapes[written[0]], by_kind, bits)
    for value in graph.graph.output:
        alive[storage[value.name]].last_use = len(graph.graph.node)
    macs, params = sum(layer.macs for layer in layers.values()), sum(prod(shapes[name]) for name in learned)
    if macs == 0 and not uncounted and not any(node.op_type in fourier.ONNX for node in graph.graph.node):
        raise UserError("model", graph.graph.name, "contains no convolution or matrix product: nothing to count")
    return Cost(
        macs=macs,
        params=params,
        param_bytes=sum(size(name) for name in learned),
        bytes_moved=sum(layer.bytes for layer in layers.values()),
        activation_bytes=peak_bytes(alive.values()),
        activation_bytes_in_place=peak_bytes_in_place(alive.values(), elementwise),
        layers=layers,
        unknown=dict(uncounted),
    )


def is_elementwise(node: NodeProto) -> bool:
    """Whether a node computes each value of its output from the values at the same place, so that runtimes compute it
    in place or fuse it into the node before it."""
    return node.op_type in ACTIVATIONS or node.op_type in ARITHMETIC or node.op_type == "BatchNormalization"


def kind_of(node: NodeProto) -> str:
    """Kind of the FLOPs of a node outside products, see `operators.kind_of`."""
    kind = node.op_type
    if kind in BIAS_INPUT:
        return "bias"
    if kind in fourier.ONNX:
        return "fft"
    if kind in ACTIVATIONS or kind in RECURRENT:
        return "activation"
    if kind in ("Softmax", "LogSoftmax", "Attention"):
        return "softmax"
    if kind.endswith(("Pool", "RoiAlign")):
        return "pooling"
    if kind.endswith("Normalization") or kind == "LRN":
        return "normalisation"
    if kind in ("Resize", "Upsample", "GridSample"):
        return "resize"
    return "reduction" if kind in PER_INPUT or kind.startswith("Reduce") else "elementwise"


def _where(node: NodeProto) -> str:
    return f"{node.name}: {_operator(node)}"


def _operator(node: NodeProto) -> str:
    return f"{node.domain}.{node.op_type}".strip(".")


def _silu_halves(graph: ModelProto) -> set[str]:
    """Names of the sigmoid nodes that only occur in x * sigmoid(x)."""
    halves = set()
    for node in graph.graph.node:
        if node.op_type == "Sigmoid":
            readers = [reader for reader in graph.graph.node if node.output[0] in reader.input]
            factors = {node.input[0], node.output[0]}
            if readers and all(reader.op_type == "Mul" and set(reader.input) == factors for reader in readers):
                halves.add(node.name)
    return halves


def _learned(graph: ModelProto, constants: Mapping[str, TensorProto]) -> set[str]:
    """Names of the parameters, including biases added to matrix products and the integers of dequantized ones."""
    products = {name for node in graph.graph.node if node.op_type == "MatMul" for name in node.output}
    stored = {node.output[0]: node.input[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"}
    learned: set[str] = set()
    for node in graph.graph.node:
        is_bias = node.op_type == "Add" and any(name in products for name in node.input)
        if node.op_type not in LEARNED and not is_bias:
            continue
        positions = LEARNED.get(node.op_type)
        for position, name in enumerate(node.input):
            kinds = FLOATS if node.op_type == "Gather" and name not in stored else FLOATS + INTEGERS
            tensor = constants.get(stored.get(name, name))
            if (positions is None or position in positions) and tensor is not None and tensor.data_type in kinds:
                learned.add(tensor.name)
    return learned


def _other_flops(
    node: NodeProto,
    shapes: Mapping[str, tuple[int, ...]],
    kinds: Mapping[str, int],
    constants: Mapping[str, TensorProto],
) -> int:
    kind, output = node.op_type, prod(shapes[next(name for name in node.output if name)])
    if not any(kinds.get(name) in FLOATS + NARROW for name in node.input):
        return 0  # sizes and indices
    if kind in BIAS_INPUT:
        return output if len(node.input) > BIAS_INPUT[kind] and node.input[BIAS_INPUT[kind]] else 0
    if kind in ("MatMul", "ConvInteger", "MatMulInteger"):
        return 0
    if kind in fourier.ONNX:
        return fourier.of_onnx(node, shapes, constants)
    if kind in RECURRENT:
        return RECURRENT[kind] * onnx_macs.states(node, shapes)
    if kind == "Attention":
        return 6 * onnx_macs.attention_scores(node, shapes)
    if kind == "Einsum":
        return 0 if onnx_macs.node_macs(node, shapes) else output
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if kind in ("MaxPool", "AveragePool"):
        return output * prod(attributes["kernel_shape"])
    if kind in PER_INPUT or kind.startswith("Reduce"):
        return prod(shapes[node.input[0]])
    if kind == "Resize":
        return output * RESIZES.get(attributes.get("mode", b"nearest").decode(), 0)
    return output * PER_OUTPUT.get(kind, 1)
