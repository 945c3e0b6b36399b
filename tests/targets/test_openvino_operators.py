"""OpenVINO's operations as ONNX: counted by hand, and against the ONNX file that an IR was converted from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.measurement import flops, graph_cost
from compress.measurement.cost import Cost
from compress.targets import openvino_operators
from compress.targets.openvino_package import package_without_telemetry
from tests.onnx_operators import First, exported
from tests.targets.mixed_network import Mixed

pytest.importorskip("openvino")


def ops() -> Any:
    package_without_telemetry()
    import openvino.opset13

    return openvino.opset13


def counted(result: Any, *inputs: Any, unknown: Any = "error") -> Cost:
    openvino, results = package_without_telemetry(), result if isinstance(result, list) else [result]
    return graph_cost.count(openvino_operators.to_onnx(openvino.Model(results, list(inputs), "net")), unknown)


def converted(net: nn.Module, image: torch.Tensor, folder: Path) -> tuple[Any, Cost]:
    """The OpenVINO model, and the cost of the ONNX file that it was converted from."""
    graph = exported(net, image, folder)
    return package_without_telemetry().convert_model(folder / "net.onnx"), graph_cost.count(graph)


def test_costs_are_those_of_the_onnx_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, wanted = converted(Mixed(), torch.rand(1, 3, 16, 16), tmp_path)
    graph = openvino_operators.to_onnx(model)
    cost = graph_cost.count(graph)
    assert (cost.macs, cost.params, cost.bit_operations) == (wanted.macs, wanted.params, wanted.bit_operations)
    assert cost.other_flops == wanted.other_flops
    added = 4 * (2 * 64 * 5)  # the bias of the linear layer is an addition of its own
    assert cost.bytes_moved == pytest.approx(wanted.bytes_moved + added, rel=0.001)
    assert cost.activation_bytes_in_place == wanted.activation_bytes_in_place
    assert "Convolution" in {node.doc_string for node in graph.graph.node}


@pytest.mark.filterwarnings("ignore")
def test_recurrent_layers_cost_what_they_do_in_torch(tmp_path: Path) -> None:
    net, example = First(nn.GRU(8, 4, num_layers=2, bidirectional=True)), torch.rand(5, 1, 8)
    model, wanted = converted(net, example, tmp_path)
    assert graph_cost.count(openvino_operators.to_onnx(model)).macs == wanted.macs == flops.count(net, example).macs


def test_weights_have_the_type_that_they_are_stored_in() -> None:
    op = ops()
    image = op.parameter([1, 2, 4, 4], np.float32)

    def convolution(weights: Any, source: Any = image) -> Any:
        return op.convolution(source, weights, [1, 1], [0, 0], [0, 0], [1, 1])

    half = op.convert(op.constant(np.ones((3, 2, 1, 1), np.float16)), "f32")
    cost = counted(convolution(half), image)
    assert (cost.macs, cost.params, cost.param_bytes, cost.bit_operations) == (96, 6, 12, 96 * 16 * 32)
    integers = op.convert(op.constant(np.ones((3, 2, 1, 1), np.int8)), "f32")
    scaled = op.multiply(integers, op.constant(np.ones((3, 1, 1, 1), np.float32)))
    ends = [op.constant(np.float32(end)) for end in (0, 1, 0, 1)]
    cost = counted(convolution(scaled, op.fake_quantize(image, *ends, 256)), image)
    assert (cost.params, cost.param_bytes, cost.bit_operations) == (6, 6, 96 * 8 * 8)
    assert cost.other_by_kind == {"elementwise": 2 * 32}  # to integers and back
    fake = op.fake_quantize(op.constant(np.ones((3, 2, 1, 1), np.float32)), *ends, 256)
    assert counted(convolution(fake), image).bit_operations == 96 * 8 * 32


def test_a_constant_per_channel_after_a_convolution_is_its_bias() -> None:
    op = ops()
    image = op.parameter([1, 2, 4, 4], np.float32)
    product = op.convolution(image, op.constant(np.ones((3, 2, 1, 1), np.float32)), [1, 1], [0, 0], [0, 0], [1, 1])
    cost = counted(op.add(op.constant(np.ones((1, 3, 1, 1), np.float32)), product), image)
    assert (cost.params, cost.other_by_kind) == (9, {"bias": 48})
    cost = counted(op.add(product, op.constant(np.ones((1, 3, 4, 4), np.float32))), image)
    assert (cost.params, cost.other_by_kind) == (6, {"elementwise": 48})


@pytest.mark.parametrize(
    ("make", "kinds"),
    [
        (lambda op, x: op.swish(x), {"activation": 4 * 32, "elementwise": 32}),
        (lambda op, x: op.hswish(x), {"activation": 5 * 32}),
        (lambda op, x: op.clamp(x, 0.0, 6.0), {"elementwise": 32}),
        (lambda op, x: op.squared_difference(x, x), {"elementwise": 2 * 32}),
        (lambda op, x: op.avg_pool(x, [2, 2], [0, 0], [0, 0], [2, 2], False), {"pooling": 8 * 4}),
        (lambda op, x: op.reduce_mean(x, op.constant(np.array([2, 3])), True), {"reduction": 32}),
        (lambda op, x: op.softmax(x, 1), {"softmax": 5 * 32}),
        (lambda op, x: op.concat([x, x], 1), {}),
    ],
)  # fmt: skip
def test_other_flops_by_hand(make: Any, kinds: dict[str, int]) -> None:
    op = ops()
    image = op.parameter([1, 2, 4, 4], np.float32)
    product = op.matmul(image, op.constant(np.ones((4, 1), np.float32)), False, False)
    assert counted([make(op, image), product], image).other_by_kind == kinds


def test_attention_by_hand() -> None:
    op = ops()
    q, k, v = (op.parameter([2, 3, n, d], np.float32) for n, d in ((5, 8), (7, 8), (7, 6)))
    cost = counted(op.scaled_dot_product_attention(q, k, v), q, k, v)
    assert (cost.macs, cost.other_flops) == (2 * 3 * 5 * 7 * (8 + 6), 6 * 2 * 3 * 5 * 7)


def test_an_operator_without_a_formula_is_named() -> None:
    op = ops()
    image = op.parameter([1, 8, 4, 4], np.float32)
    result = op.dft(op.reshape(image, [1, 64, 2], False), op.constant(np.array([1])))
    with pytest.raises(UserError, match=r"DFT.*: openvino\.DFT: the products of this operator cannot be counted"):
        counted(result, image)
    assert counted(result, image, unknown="warn").unknown == {"openvino.DFT": 1}
