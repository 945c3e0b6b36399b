"""MACs of ONNX operators (https://onnx.ai/onnx/operators), computed from the shapes of their inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from onnx import AttributeProto, NodeProto

from compress.errors import TargetFailed

Shapes = Mapping[str, tuple[int, ...]]
Formula = Callable[[NodeProto, Shapes], int]

STANDARD, ONNXRUNTIME = ("", "ai.onnx"), "com.microsoft"
# Operators without products are listed explicitly. An operator in none of the lists is refused, not counted as 0.
WITHOUT_PRODUCTS = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Bernoulli BitCast
    BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu CenterCropPad Clip
    Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape Cos Cosh CumProd CumSum DFT DepthToSpace
    DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
    GatherElements GatherND Gelu GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf
    IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool Max MaxPool
    MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Mul Multinomial Neg NonMaxSuppression NonZero
    Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization RandomNormal RandomNormalLike RandomUniform
    RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT
    Scatter ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
    SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split
    SplitToSequence Sqrt Squeeze Sub Sum SwiGLU Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose
    Trilu Unique Unsqueeze Upsample Where Xor
""".split()
# ONNX Runtime's domain: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
ONNXRUNTIME_WITHOUT_PRODUCTS = """
    QuantizeLinear DequantizeLinear QLinearAdd QLinearMul QLinearSigmoid QLinearSoftmax QLinearLeakyRelu QLinearConcat
    QLinearWhere QLinearAveragePool QLinearGlobalAveragePool QLinearReduceMean Gelu FastGelu QuickGelu BiasGelu
    LayerNormalization SkipLayerNormalization
""".split()


def is_known(node: NodeProto) -> bool:
    """True if the MACs of an operator can be counted."""
    without_products = ONNXRUNTIME_WITHOUT_PRODUCTS if node.domain == ONNXRUNTIME else WITHOUT_PRODUCTS
    return node.domain in (*STANDARD, ONNXRUNTIME) and (has_products(node) or node.op_type in without_products)


def has_products(node: NodeProto) -> bool:
    """True if an operator computes products, so that it has a formula for its MACs."""
    return _formula(node) is not None


def _formula(node: NodeProto) -> Formula | None:
    return (ONNXRUNTIME_FORMULAS if node.domain == ONNXRUNTIME else FORMULAS).get(node.op_type)


def node_macs(node: NodeProto, shapes: Shapes) -> int:
    """MACs of one node; 0 if its operator has no formula, see `is_known`. Raises TargetFailed if `shapes` lacks a
    tensor that the formula needs."""
    try:
        return formula(node, shapes) if (formula := _formula(node)) else 0
    except KeyError as error:
        raise TargetFailed(f"the shape of {error} at node {node.name} cannot be inferred") from error


def states(node: NodeProto, shapes: Shapes) -> int:
    """Number of hidden state values of a recurrent layer, over all steps and directions."""
    directions, hidden = shapes[node.input[2]][0], shapes[node.input[2]][2]
    return prod(shapes[node.input[0]][:2]) * directions * hidden


def attention_scores(node: NodeProto, shapes: Shapes) -> int:
    """Number of scores of an Attention node: one per query head, query and key, including past keys."""
    query = shapes[node.input[0]]
    heads = query[1] if len(query) == 4 else _attribute(node, "q_num_heads").i
    past = node.input[4] if len(node.input) > 4 else ""
    keys = shapes[node.input[1]][-2] + (shapes[past][-2] if past else 0)
    return query[0] * heads * query[-2] * keys


def _attribute(node: NodeProto, name: str) -> AttributeProto:
    return {attribute.name: attribute for attribute in node.attribute}[name]


def _convolution(weights: int) -> Formula:
    """Formula of a convolution whose input `weights` has the weights, (out, in / groups, kh, kw)."""
    return lambda node, shapes: prod(shapes[node.output[0]]) * prod(shapes[node.input[weights]][1:])


def _matrix_product(node: NodeProto, shapes: Shapes) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][-2 if transposed else -1]


def _recurrent(node: NodeProto, shapes: Shapes) -> int:
    """Both weight matrices, in all directions, at each step of X, (steps, batch, inputs) or (batch, steps, inputs).
    Shorter sequences count at full length, as most runtimes compute them."""
    return prod(shapes[node.input[0]][:2]) * (prod(shapes[node.input[1]]) + prod(shapes[node.input[2]]))


def _einsum(node: NodeProto, shapes: Shapes) -> int:
    equation = _attribute(node, "equation").s.decode()
    return einsum(equation, [shapes[name] for name in node.input], len(shapes[node.output[0]]))


def einsum(equation: str, operands: Sequence[tuple[int, ...]], rank: int) -> int:
    """MACs of an Einsum, for example "bij,bjk->bik", of operands with these shapes and a result of `rank` dimensions.

    Operands are contracted from left to right, as in ONNX Runtime. Contracting two of them costs the product of the
    sizes of all their indices. An index that occurs in one operand only, and not in the result, is summed first. A
    product without a summed index is elementwise and costs no MACs.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    terms: list[set[str]] = []
    for operand, shape in zip(left.split(","), operands, strict=True):
        labels = _labels(operand, len(shape))
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
        terms.append(set(labels))
    implicit = {label for label in sizes if len(label) > 1 or left.count(label) == 1}
    result = set(_labels(right, rank)) if arrow else implicit
    macs, current = 0, terms[0]
    for index, term in enumerate(terms[1:], start=2):
        later = result.union(*terms[index:])
        current, term = current & (later | term), term & (later | current)
        summed = (current & term) - later
        macs += prod(sizes[label] for label in current | term) if summed else 0
        current = (current | term) - summed
    return macs


def _labels(term: str, rank: int) -> list[str]:
    """One label per dimension; the dimensions of an ellipsis are numbered from the right."""
    before, dots, after = term.partition("...")
    unnamed = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"...{index}" for index in range(unnamed, 0, -1)), *after]


def _attention(node: NodeProto, shapes: Shapes) -> int:
    """Q K^T and its product with V. Inputs are (batch, heads, n, size) or (batch, n, heads x size)."""
    query, value = shapes[node.input[0]], shapes[node.input[2]]
    if len(query) == 4:
        sizes = query[-1] + value[-1]
    else:
        sizes = query[-1] // _attribute(node, "q_num_heads").i + value[-1] // _attribute(node, "kv_num_heads").i
    return attention_scores(node, shapes) * sizes


FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("Conv", "ConvInteger", "DeformConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    # Weights are (in, out / groups, kh, kw).
    "ConvTranspose": lambda node, shapes: prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:]),
    **dict.fromkeys(("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"), _matrix_product),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Einsum": _einsum,
    "Attention": _attention,
    # theta is (n, 2, 3) or (n, 3, 4).
    "AffineGrid": lambda node, shapes: prod(shapes[node.output[0]]) * shapes[node.input[0]][-1],
}
ONNXRUNTIME_FORMULAS: dict[str, Formula] = {
    "FusedConv": _convolution(1),
    **dict.fromkeys(("QGemm", "MatMulIntegerToFloat"), _matrix_product),
}
