"""LiteRT's operators as ONNX: counted by hand, and against the torch network that a file was converted from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import TensorProto

from compress.config import ExportConfig
from compress.errors import UserError
from compress.measurement import graph_cost
from compress.measurement.cost import Cost
from compress.targets import litert, litert_graph, litert_operators, onnx_graph
from tests.fakes import FakeModel
from tests.targets.litert_files import model, tensor
from tests.targets.mixed_network import Mixed


def counted(file: Any, unknown: Any = "error") -> Cost:
    pytest.importorskip("ai_edge_litert")
    return graph_cost.count(litert_operators.to_onnx(file), unknown)


@pytest.mark.parametrize(
    ("operator", "weights", "image", "output", "macs"),
    [
        ("CONV_2D", (6, 3, 3, 4), (1, 8, 8, 4), (1, 8, 8, 6), 6 * 64 * 9 * 4),
        ("CONV_2D", (6, 3, 3, 2), (1, 8, 8, 4), (1, 8, 8, 6), 6 * 64 * 9 * 2),  # two groups
        ("DEPTHWISE_CONV_2D", (1, 3, 3, 8), (1, 8, 8, 4), (1, 8, 8, 8), 8 * 64 * 9),
        ("FULLY_CONNECTED", (5, 16), (1, 2, 2, 4), (1, 5), 5 * 16),
        ("FULLY_CONNECTED", (5, 16), (2, 3, 16), (2, 3, 5), 6 * 5 * 16),
    ],
)  # fmt: skip
def test_products_by_hand(
    operator: str, weights: tuple[int, ...], image: tuple[int, ...], output: tuple[int, ...], macs: int
) -> None:
    bias = max(weights[0], weights[3] if operator.startswith("DEPTH") else 0)
    tensors = [tensor(image), tensor(weights, constant=True), tensor((bias,), constant=True), tensor(output)]
    cost = counted(model(tensors, [(operator, [0, 1, 2], [3], {"fusedActivationFunction": 1})]))
    size = torch.zeros(weights).numel()
    assert (cost.macs, cost.params, cost.bit_operations) == (macs, size + bias, 1024 * macs)
    values = torch.zeros(output).numel()
    assert cost.other_by_kind == {"bias": values, "activation": values}
    assert cost.activation_bytes_in_place == 4 * (torch.zeros(image).numel() + values)


def test_transposed_convolutions_and_products_of_activations_by_hand() -> None:
    tensors = [
        tensor((4,), "INT32", constant=True), tensor((6, 2, 2, 4), constant=True), tensor((1, 5, 5, 4)),
        tensor((1, 10, 10, 6)),
    ]  # fmt: skip
    cost = counted(model(tensors, [("TRANSPOSE_CONV", [0, 1, 2], [3], {})], inputs=[2]))
    assert (cost.macs, cost.params) == (25 * 4 * 4 * 6, 6 * 4 * 4)
    pair = [tensor((2, 3, 8)), tensor((2, 3, 5)), tensor((2, 8, 5))]
    assert counted(model(pair, [("BATCH_MATMUL", [0, 1], [2], {"adjX": True})], inputs=[0, 1])).macs == 2 * 8 * 5 * 3


def test_integers_and_stored_halves_count_in_their_bits() -> None:
    image, output = tensor((1, 4, 4, 2), "INT8"), tensor((1, 4, 4, 3), "INT8")
    weights, bias = tensor((3, 1, 1, 2), "INT8", constant=True), tensor((3,), "INT32", constant=True)
    pooled = [image, weights, bias, output, tensor((1, 2, 2, 3), "INT8")]
    pool = ("MAX_POOL_2D", [3], [4], {"filterHeight": 2, "filterWidth": 2})
    cost = counted(model(pooled, [("CONV_2D", [0, 1, 2], [3], {}), pool]))
    assert (cost.macs, cost.params, cost.param_bytes) == (96, 9, 6 + 12)
    assert (cost.bit_operations, cost.other_by_kind) == (96 * 64, {"bias": 48, "pooling": 48})
    assert cost.bytes_moved == (32 + 18 + 48) + (48 + 12)
    stored = tensor((3, 1, 1, 2), "FLOAT16", constant=True)
    halves = [tensor((1, 4, 4, 2)), stored, tensor((3, 1, 1, 2)), tensor((1, 4, 4, 3))]
    cost = counted(model(halves, [("DEQUANTIZE", [1], [2], {}), ("CONV_2D", [0, 2], [3], {})]))
    assert (cost.params, cost.param_bytes, cost.bit_operations) == (6, 12, 96 * 16 * 32)


def test_an_operator_without_a_formula_is_named() -> None:
    tensors = [tensor((1, 4, 4, 2)), tensor((3, 1, 1, 2), constant=True), tensor((1, 4, 4, 3)), tensor((1, 4, 4, 3))]
    file = model(tensors, [("CONV_2D", [0, 1], [2], {}), ("ATAN2", [2, 2], [3], {})])
    with pytest.raises(UserError, match=r"t3: litert\.ATAN2: the products of this operator cannot be counted"):
        counted(file)
    assert counted(file, "warn").unknown == {"litert.ATAN2": 1}


def test_costs_are_those_of_the_onnx_file(tmp_path: Path) -> None:
    for package in litert.PACKAGES:
        pytest.importorskip(package)
    torch.manual_seed(0)
    network = FakeModel(Mixed())
    graph = litert.convert(network, tmp_path, ExportConfig())
    operators = litert_operators.to_onnx(litert_graph.read(graph.path))
    wanted = graph_cost.count(onnx_graph.read(onnx_graph.export(network, tmp_path / "net.onnx", ExportConfig().opset)))
    cost = graph_cost.count(operators)
    assert (cost.macs, cost.params, cost.bit_operations) == (wanted.macs, wanted.params, wanted.bit_operations)
    assert cost.other_flops == pytest.approx(wanted.other_flops, rel=0.001)
    assert set(onnx_graph.declared_types(operators).values()) <= {TensorProto.FLOAT, TensorProto.INT32}
