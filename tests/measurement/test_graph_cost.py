"""Operators of ONNX graphs that are neither convolutions nor matrix products: counted, or refused by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compress import models
from compress.config import Family, ModelConfig
from compress.errors import UserError
from compress.measurement import flops, graph_cost
from compress.models.onnx_model import OnnxModel
from tests.models.toy import Net, randomise
from tests.onnx_operators import First, exported, single


@pytest.mark.filterwarnings("ignore")  # the exporter warns of recurrent layers with a batch size
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_recurrent_layers_cost_what_they_do_in_torch(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    net, example = First(getattr(nn, kind)(8, 4, **options)), torch.rand(5, 1, 8)
    result, wanted = graph_cost.count(exported(net, example, tmp_path)), flops.count(net, example)
    assert (result.macs, result.params, result.param_bytes) == (wanted.macs, wanted.params, wanted.param_bytes)
    assert result.other_flops == pytest.approx(wanted.other_flops, rel=0.02)


@pytest.mark.filterwarnings("ignore")  # the exporter warns of the loop
@pytest.mark.parametrize(("kind", "gates"), [("LSTMCell", 4), ("GRUCell", 3), ("RNNCell", 1)])
def test_the_initial_state_of_a_cell_is_a_constant(kind: str, gates: int, tmp_path: Path) -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = getattr(nn, kind)(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            state: Any = None
            for step in x:
                state = self.cell(step, state)
            return state[0] if kind == "LSTMCell" else state

    net, example = Steps(), torch.rand(3, 1, 8)
    by_hand = gates * 4 * (3 * 8 + 2 * 4)  # three inputs, two states that depend on them
    assert graph_cost.count(exported(net, example, tmp_path)).macs == flops.count(net, example).macs == by_hand


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_and_shared_weights_cost_what_they_do_in_torch(need_weights: bool, tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.shared = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.shared(torch.relu(self.shared(x)))
            return self.attention(x, x, x, need_weights=need_weights)[0]

    net, example = Twice().eval(), torch.rand(1, 4, 8)
    result, wanted = graph_cost.count(exported(net, example, tmp_path)), flops.count(net, example)
    by_hand = 4 * 64 * (2 + 4) + 2 * 16 * 8  # two calls of the shared layer, four projections, two products per score
    assert result.macs == wanted.macs == by_hand
    assert result.params == wanted.params == 72 + 4 * 64 + 32


@pytest.mark.parametrize(
    ("equation", "shapes", "output", "macs"),
    [
        ("bqd,bkd->bqk", [(2, 4, 5), (2, 3, 5)], (2, 4, 3), 2 * 4 * 3 * 5),
        ("...qd,...kd->...qk", [(2, 7, 4, 5), (7, 3, 5)], (2, 7, 4, 3), 2 * 7 * 4 * 3 * 5),
        ("ij,jk", [(2, 3), (3, 4)], (2, 4), 2 * 3 * 4),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], (2, 5), 2 * 3 * 4 + 2 * 4 * 5),
        ("ijx,jk->ik", [(2, 3, 9), (3, 4)], (2, 4), 2 * 3 * 4),  # x is summed before the product
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]], output: tuple[int, ...], macs: int) -> None:
    inputs = {f"x{index}": shape for index, shape in enumerate(shapes)}
    assert graph_cost.count(single("Einsum", inputs, output, equation=equation)).macs == macs

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum(equation, x, *(torch.rand(shape) for shape in shapes[1:]))

    if "x" not in equation:
        with torch.backends.opt_einsum.flags(enabled=False):  # from left to right
            assert flops.count(Net(), torch.rand(shapes[0])).macs == macs


def test_einsum_without_a_sum_is_elementwise() -> None:
    with pytest.raises(UserError, match="nothing to count"):
        graph_cost.count(single("Einsum", {"a": (2, 3), "b": (2, 3)}, (2, 3), equation="ij,ij->ij"))


def test_attention_is_counted_at_its_scores() -> None:
    four = {"q": (2, 4, 5, 8), "k": (2, 2, 7, 8), "v": (2, 2, 7, 6)}  # grouped: 4 heads of queries, 2 of keys
    cost = graph_cost.count(single("Attention", four, (2, 4, 5, 6)))
    assert (cost.macs, cost.other_flops) == (2 * 4 * 5 * 7 * (8 + 6), 6 * 2 * 4 * 5 * 7)
    three = {"q": (2, 5, 32), "k": (2, 7, 16), "v": (2, 7, 12)}
    assert graph_cost.count(single("Attention", three, (2, 5, 24), q_num_heads=4, kv_num_heads=2)).macs == cost.macs
    past = four | {"mask": None, "past_k": (2, 2, 3, 8), "past_v": (2, 2, 3, 6)}
    assert graph_cost.count(single("Attention", past, (2, 4, 5, 6))).macs == 2 * 4 * 5 * 10 * (8 + 6)


def test_embeddings_read_only_the_rows_that_they_select() -> None:
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"], name="embedding"),
        helper.make_node("MatMul", ["rows", "w"], ["y"], name="product"),
    ]
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, (3,))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (3, 5))
    table, w = np.ones((100, 4), np.float32), np.ones((4, 5), np.float32)
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(w, "w")]
    graph = helper.make_graph(nodes, "graph", [tokens], [y], constants)
    cost = graph_cost.count(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert cost.layers["embedding"].bytes == 3 * 8 + 2 * 3 * 4 * 4
    assert (cost.layers["product"].macs, cost.params) == (3 * 4 * 5, 400 + 20)


def test_deformable_convolution_and_affine_grids() -> None:
    weights = {"w": np.ones((6, 4, 3, 3), np.float32), "offset": (1, 18, 6, 6), "b": np.ones(6, np.float32)}
    cost = graph_cost.count(single("DeformConv", {"x": (1, 4, 8, 8), **weights}, (1, 6, 6, 6)))
    assert (cost.macs, cost.params, cost.other_flops) == (6 * 36 * 4 * 9, 6 * 36 + 6, 6 * 36)
    size = np.array([1, 1, 5, 7], np.int64)
    assert graph_cost.count(single("AffineGrid", {"theta": (1, 2, 3), "size": size}, (1, 5, 7, 2))).macs == 35 * 2 * 3


SCALE, ZERO = np.float32(0.1), np.uint8(3)
INT8 = (TensorProto.UINT8, TensorProto.UINT8)
FILTERS, MATRIX = np.ones((6, 2, 3, 3), np.uint8), np.ones((8, 5), np.uint8)


def scaled(name: str, value: Any) -> dict[str, Any]:
    return {name: value, f"{name}_scale": np.array(SCALE), f"{name}_zero": np.array(ZERO)}


@pytest.mark.parametrize(
    ("graph", "macs", "params", "param_bytes"),
    [
        (
            single(
                "QLinearConv",
                {**scaled("x", (1, 4, 8, 8)), **scaled("w", FILTERS), "y_scale": np.array(SCALE)}
                | {"y_zero": np.array(ZERO), "b": np.ones(6, np.int32)},
                (1, 6, 6, 6), types=INT8, group=2,
            ),
            6 * 36 * 2 * 9, 6 * 18 + 6, 6 * 18 + 6 * 4,
        ),
        (
            single(
                "QLinearMatMul",
                {**scaled("x", (3, 8)), **scaled("w", MATRIX), "y_scale": np.array(SCALE), "y_zero": np.array(ZERO)},
                (3, 5), types=INT8,
            ),
            3 * 8 * 5, 40, 40,
        ),
        (
            single("ConvInteger", {"x": (1, 4, 8, 8), "w": FILTERS}, (1, 6, 6, 6), types=(2, 6), group=2),
            6 * 36 * 2 * 9, 6 * 18, 6 * 18,
        ),
        (single("MatMulInteger", {"x": (3, 8), "w": MATRIX}, (3, 5), types=(2, 6)), 3 * 8 * 5, 40, 40),
        (
            single(
                "QGemm",
                {**scaled("x", (3, 8)), **scaled("w", MATRIX), "b": np.ones(5, np.int32)},
                (3, 5), types=(2, 1), domain="com.microsoft",
            ),
            3 * 8 * 5, 45, 40 + 5 * 4,
        ),
    ],
    ids=lambda value: value.graph.node[0].op_type if isinstance(value, ModelProto) else "",
)  # fmt: skip
def test_quantized_operators(graph: ModelProto, macs: int, params: int, param_bytes: int) -> None:
    cost = graph_cost.count(graph)
    assert (cost.macs, cost.params, cost.param_bytes) == (macs, params, param_bytes)
    layer = cost.layers["/layer/node"]
    node, width = graph.graph.node[0], 1 if graph.graph.output[0].type.tensor_type.elem_type == TensorProto.UINT8 else 4
    scales = sum(4 for name in node.input if name.endswith("scale")) + sum(name.endswith("zero") for name in node.input)
    read = np.prod([d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim])
    assert layer.bytes == read + param_bytes + scales + width * np.prod(layer.output)


def test_weights_behind_a_dequantization_are_parameters_of_a_byte() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["float"], name="dequantize"),
        helper.make_node("MatMul", ["x", "float"], ["y"], name="product"),
    ]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (3, n)) for name, n in (("x", 8), ("y", 5))]
    constants = [numpy_helper.from_array(MATRIX.view(np.int8), "w"), numpy_helper.from_array(np.array(SCALE), "scale")]
    graph = helper.make_graph(nodes, "graph", shapes[:1], shapes[1:], constants)
    cost = graph_cost.count(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert (cost.macs, cost.params, cost.param_bytes, cost.other_flops) == (120, 40, 40, 0)
    assert cost.bytes_moved == 4 * 24 + 40 + 4 * 15  # weights of one byte
    assert cost.activation_bytes == 4 * (24 + 15)  # without weights
    assert (cost.layers["product"].params, cost.layers["dequantize"].params) == (40, 0)


@pytest.mark.parametrize(
    ("kind", "domain", "message"),
    [
        ("Det", "", "/layer/node: Det"),
        ("LinearAttention", "", "/layer/node: LinearAttention"),
        ("Relu", "com.example", r"/layer/node: com\.example\.Relu"),
        ("MultiHeadAttention", "com.microsoft", r"/layer/node: com\.microsoft\.MultiHeadAttention"),
        ("TreeEnsemble", "ai.onnx.ml", r"/layer/node: ai\.onnx\.ml\.TreeEnsemble"),
    ],
)
def test_what_has_no_formula_is_refused_by_node_and_operator(kind: str, domain: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        graph_cost.count(single(kind, {"x": (1, 4, 4)}, (1, 4, 4), domain=domain))


def test_operators_without_a_formula_can_be_counted_apart(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")  # a library may have raised the root logger's
    cost = graph_cost.count(single("Det", {"x": (5, 4, 4)}, (5,)), unknown="warn")
    assert (cost.macs, cost.other_flops, cost.unknown) == (0, 0, {"Det": 1})
    assert cost.bytes_moved == 4 * (80 + 5)
    assert "Det has no formula" in caplog.text


@pytest.mark.parametrize(
    ("kind", "shape", "output", "attributes", "kinds"),
    [
        ("Relu", (1, 2, 4, 4), (1, 2, 4, 4), {}, {"activation": 32}),
        ("Neg", (1, 2, 4, 4), (1, 2, 4, 4), {}, {"elementwise": 32}),
        ("Softmax", (1, 2, 4, 4), (1, 2, 4, 4), {}, {"softmax": 5 * 32}),
        ("MaxPool", (1, 2, 4, 4), (1, 2, 2, 2), {"kernel_shape": [2, 2], "strides": [2, 2]}, {"pooling": 32}),
        ("GlobalAveragePool", (1, 2, 4, 4), (1, 2, 1, 1), {}, {"pooling": 32}),
        ("ReduceMean", (1, 2, 4, 4), (1, 1, 1, 1), {}, {"reduction": 32}),
        ("LpNormalization", (1, 2, 4, 4), (1, 2, 4, 4), {}, {"normalisation": 32}),
        ("DFT", (1, 8, 1), (1, 8, 2), {}, {"fft": 60}),
    ],
)
def test_other_flops_have_a_kind(
    kind: str, shape: tuple[int, ...], output: tuple[int, ...], attributes: dict[str, Any], kinds: dict[str, int]
) -> None:
    node = single(kind, {"x": shape}, output, **attributes)
    product = single("MatMul", {"a": (2, 3), "b": (3, 2)}, (2, 2)).graph
    product.node[0].name, product.node[0].output[0] = "/layer/product", "z"
    product.output[0].name = "z"
    for field in ("node", "input", "output"):
        getattr(node.graph, field).extend(getattr(product, field))
    cost = graph_cost.count(node)
    assert (cost.other_by_kind, cost.layers["/layer/product"].other_flops) == (kinds, 0)


def test_bit_operations_by_the_types_before_dequantization() -> None:
    def dequantized(name: str) -> list[Any]:
        return [
            helper.make_node("DequantizeLinear", [f"{name}_stored", "scale"], [name], name=f"dequantize_{name}"),
        ]

    x = helper.make_tensor_value_info("x_stored", TensorProto.UINT8, (3, 8))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (3, 5))
    constants = [
        numpy_helper.from_array(MATRIX.view(np.int8), "w_stored"),
        numpy_helper.from_array(np.array(SCALE), "scale"),
        numpy_helper.from_array(np.ones((5, 5), np.float32), "v"),
    ]
    nodes = [
        *dequantized("x"), *dequantized("w"), helper.make_node("MatMul", ["x", "w"], ["z"], name="integers"),
        helper.make_node("MatMul", ["z", "v"], ["y"], name="floats"),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "graph", [x], [y], constants)
    cost = graph_cost.count(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert cost.layers["integers"].bit_operations == 120 * 8 * 8
    assert cost.layers["floats"].bit_operations == 75 * 32 * 32
    assert cost.bit_operations == 120 * 64 + 75 * 1024
    product = {**scaled("x", (3, 8)), **scaled("w", MATRIX), "y_scale": np.array(SCALE), "y_zero": np.array(ZERO)}
    assert graph_cost.count(single("QLinearMatMul", product, (3, 5), types=INT8)).bit_operations == 120 * 64


def test_integers_stay_integers_where_they_are_only_moved() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale"], ["float"], name="dequantize"),
        helper.make_node("Concat", ["float", "float"], ["both"], name="concat", axis=0),
        helper.make_node("Concat", ["float", "z"], ["mixed"], name="mixed", axis=0),
        helper.make_node("MatMul", ["both", "w"], ["y"], name="product"),
        helper.make_node("MatMul", ["mixed", "w"], ["m"], name="half"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.INT8, (3, 8))
    z, y, m = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("z", (3, 8)), ("y", (6, 5)), ("m", (6, 5)))
    )
    w = numpy_helper.from_array(MATRIX.astype(np.float32), "w")
    constants = [numpy_helper.from_array(np.array(SCALE), "scale"), w]
    graph = helper.make_graph(nodes, "graph", [x, z], [y, m], constants)
    cost = graph_cost.count(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert cost.layers["product"].bit_operations == 240 * 8 * 32
    assert cost.layers["half"].bit_operations == 240 * 32 * 32


def test_elementwise_nodes_reuse_memory_that_is_not_needed_any_more() -> None:
    """Convolution and SiLU, its sum with the convolution before it, as in a residual block."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "v"], ["b"], name="second"),
        helper.make_node("Sigmoid", ["b"], ["s"], name="sigmoid"),
        helper.make_node("Mul", ["b", "s"], ["c"], name="mul"),
        helper.make_node("Add", ["a", "c"], ["y"], name="add"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, c, 4, 4)) for n, c in (("x", 1), ("y", 4)))
    constants = [numpy_helper.from_array(np.ones((4, c, 1, 1), np.float32), n) for n, c in (("w", 1), ("v", 4))]
    graph = helper.make_graph(nodes, "graph", [x], [y], constants)
    cost = graph_cost.count(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert (cost.activation_bytes, cost.activation_bytes_in_place) == (3 * 256, 2 * 256)


def test_a_shape_that_is_not_known_is_refused_by_node_and_operator() -> None:
    graph = single("NonZero", {"x": (3, 4)}, (2, 1), types=(TensorProto.FLOAT, TensorProto.INT64))
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "n"
    with pytest.raises(UserError, match="/layer/node: NonZero.*tensor y"):
        graph_cost.count(graph)


def test_costs_are_those_of_the_torch_network(tmp_path: Path) -> None:
    net = randomise(Net()).eval()
    image = torch.rand(1, 3, 32, 32)
    torch.onnx.export(net, (image,), str(tmp_path / "net.onnx"), dynamo=False, opset_version=17)
    model = models.build(ModelConfig(Family.onnx, path=str(tmp_path / "net.onnx"), imgsz=0, channels=0))
    assert isinstance(model, OnnxModel)
    result, wanted = graph_cost.count(model.graph), flops.count(fused(net), image)
    assert (result.macs, result.params, result.param_bytes) == (wanted.macs, wanted.params, wanted.param_bytes)
    assert result.other_flops == pytest.approx(wanted.other_flops, rel=0.01)
    assert result.bytes_moved == pytest.approx(wanted.bytes_moved, rel=0.05)
    assert result.activation_bytes == pytest.approx(wanted.activation_bytes, rel=0.05)
    assert sum(layer.macs for layer in result.layers.values()) == result.macs


def fused(net: nn.Module) -> nn.Module:
    """Batch norms gone into the convolutions before them, as ONNX Runtime has it."""
    copied = copy.deepcopy(net)
    for module in list(copied.modules()):
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            convolution, norm = module[index], module[index + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[index] = nn.utils.fuse_conv_bn_eval(convolution, norm)
                module[index + 1] = nn.Identity()
    return copied
