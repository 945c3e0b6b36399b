"""Operators of ONNX graphs, fused as runtimes fuse them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from compress import targets
from compress.config import ExportConfig, ModelConfig
from compress.devices import graph_operators
from compress.devices.operators import Operator, published_networks
from compress.errors import UserError
from compress.models import build
from tests.onnx_operators import exported, single


def test_a_convolution_and_its_activation_function_are_one_operator(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    first, second = graph_operators.read(exported(net, torch.rand(1, 3, 4, 4), tmp_path))
    values = 16 * 8
    assert first == Operator(values * 27, 16 * 11, 8 * 27 + 8, 8, False, "Conv", values, 3, taps=9, activation="Relu")
    assert second == Operator(values * 9, 2 * values, 8 * 9 + 8, 1, False, "DepthwiseConv", values, 1, 8, 9)


def test_the_two_operators_of_a_silu_are_fusible(tmp_path: Path) -> None:
    convolution, *silu = graph_operators.read(
        exported(nn.Sequential(nn.Conv2d(3, 8, 1), nn.SiLU()), torch.rand(1, 3, 4, 4), tmp_path)
    )
    assert not convolution.fusible
    assert silu == [Operator(0, 256, 0, 0, True, "Sigmoid", 128), Operator(0, 384, 0, 0, True, "Mul", 128)]


def test_an_output_of_a_convolution_with_another_reader_is_not_fused(tmp_path: Path) -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return x * torch.sigmoid(y) + y

    read = graph_operators.read(exported(Gate(), torch.rand(1, 3, 4, 4), tmp_path))
    assert [operator.fusible for operator in read] == [False] * 4


def test_nodes_need_no_names(tmp_path: Path) -> None:
    graph = exported(nn.Sequential(nn.Conv2d(3, 8, 1), nn.SiLU(), nn.MaxPool2d(2)), torch.rand(1, 3, 4, 4), tmp_path)
    named = graph_operators.read(graph)
    for node in graph.graph.node:
        node.name = ""
    assert graph_operators.read(graph) == named


def test_linear_layers_have_weights_and_products_of_activations_have_none(tmp_path: Path) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return y @ y.transpose(-1, -2)

    read = graph_operators.read(exported(Attention(), torch.rand(1, 5, 6), tmp_path))
    assert [(each.macs, each.weights, each.rows) for each in read] == [(120, 24, 4), (0, 0, 0), (100, 0, 0)]


def test_a_slice_reads_what_it_writes() -> None:
    limits = {name: np.array([value], dtype=np.int64) for name, value in (("from", 0), ("to", 2), ("axis", 1))}
    assert graph_operators.read(single("Slice", {"x": (1, 8), **limits}, (1, 2))) == [
        Operator(0, 4, 0, 0, False, "Slice", 2)
    ]


def test_a_change_of_shape_is_no_operator() -> None:
    shape = np.array([2, 4], dtype=np.int64)
    assert graph_operators.read(single("Reshape", {"x": (1, 8), "shape": shape}, (2, 4))) == []


def test_an_operator_with_unknown_products_is_named() -> None:
    with pytest.raises(UserError, match="/layer/node: Mystery.*cannot be counted"):
        graph_operators.read(single("Mystery", {"x": (1, 8)}, (1, 8), domain="own"))


def test_a_tensor_of_unknown_shape_is_named() -> None:
    graph = single("Relu", {"x": (1, 8)}, (1, 8))
    graph.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 8]))
    with pytest.raises(UserError, match="shape of its tensor x is unknown"):
        graph_operators.read(graph)


def test_the_table_has_the_operators_of_an_exported_network(tmp_path: Path) -> None:
    """As `scripts/count_networks.py` writes it."""
    model = build(ModelConfig(name="yolo26n", imgsz=640), tuple(f"class {index}" for index in range(80)))
    graph = targets.get("onnxruntime").convert(model, tmp_path, ExportConfig())
    read = graph_operators.read(onnx.load(graph.path))
    assert Counter(read) == Counter(published_networks()["yolo26n"])
