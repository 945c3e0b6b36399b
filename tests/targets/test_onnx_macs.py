"""MACs of ONNX operators, against products counted one by one in Python loops."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod
from typing import Any

import onnx
import pytest
from onnx import helper

from compress.errors import TargetFailed
from compress.targets import onnx_macs


def macs(
    kind: str, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...], domain: str = "", **attributes: Any
) -> int:
    names = [f"x{index}" for index in range(len(inputs))]
    node = helper.make_node(kind, names, ["y"], name="node", domain=domain, **attributes)
    return onnx_macs.node_macs(node, {**dict(zip(names, inputs)), "y": output})


def test_a_grouped_convolution() -> None:
    groups, wide, inside, outside = 2, 4, 2, 3  # channels per group
    products = itertools.product(range(groups), range(outside), range(wide**2), range(inside), range(3 * 3))
    counted = sum(1 for _ in products)
    shapes = [(1, groups * inside, 6, 6), (groups * outside, inside, 3, 3)]
    output = (1, groups * outside, wide, wide)
    assert macs("Conv", shapes, output, group=groups) == counted
    assert macs("ConvInteger", shapes, output, group=groups) == counted
    assert macs("FusedConv", shapes, output, onnx_macs.ONNXRUNTIME, group=groups) == counted
    scale, zero = (), ()
    quantized = [shapes[0], scale, zero, shapes[1], scale, zero]
    assert macs("QLinearConv", quantized, output, group=groups) == counted


def test_a_transposed_convolution_multiplies_each_input_value() -> None:
    pixels, groups, inside, outside, kernel = 5 * 5, 2, 2, 3, 2 * 2
    counted = sum(1 for _ in itertools.product(range(pixels), range(groups), range(inside), range(outside * kernel)))
    shapes = [(1, groups * inside, 5, 5), (groups * inside, outside, 2, 2)]
    assert macs("ConvTranspose", shapes, (1, groups * outside, 10, 10), group=groups) == counted


@pytest.mark.parametrize(
    ("kind", "left", "attributes"), [("MatMul", (3, 8), {}), ("Gemm", (3, 8), {}), ("Gemm", (8, 3), {"transA": 1})]
)
def test_matrix_products_sum_over_the_inner_side(kind: str, left: tuple[int, int], attributes: dict[str, Any]) -> None:
    assert macs(kind, [left, (8, 5)], (3, 5), **attributes) == 3 * 8 * 5


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bqd,bkd->bqk", [(2, 4, 5), (2, 3, 5)]),
        ("bij,bjk", [(2, 3, 4), (2, 4, 5)]),
        ("ij,ij->", [(2, 3), (2, 3)]),
    ],
)
def test_an_einsum_of_two_costs_one_mac_per_combination_of_indices(
    equation: str, shapes: list[tuple[int, ...]]
) -> None:
    sizes = {
        label: size
        for term, shape in zip(equation.split("->")[0].split(","), shapes)
        for label, size in zip(term, shape)
    }
    combinations = sum(1 for _ in itertools.product(*(range(size) for size in sizes.values())))
    assert onnx_macs.einsum(equation, shapes, 2) == combinations


def test_an_einsum_with_a_broadcast_ellipsis() -> None:
    assert onnx_macs.einsum("...ij,...jk->...ik", [(7, 6, 2, 3), (1, 3, 4)], 4) == 7 * 6 * 2 * 3 * 4


def test_recurrent_layers_multiply_both_matrices_at_each_step() -> None:
    steps, batch, inputs, hidden, directions = 5, 2, 8, 4, 2
    shapes = [(steps, batch, inputs), (directions, 4 * hidden, inputs), (directions, 4 * hidden, hidden)]
    wanted = steps * batch * directions * 4 * hidden * (inputs + hidden)
    assert macs("LSTM", shapes, (steps, directions, batch, hidden)) == wanted
    node = helper.make_node("LSTM", ["x0", "x1", "x2"], ["y"])
    states = onnx_macs.states(node, dict(zip(("x0", "x1", "x2"), shapes)))
    assert states == steps * batch * directions * hidden


def test_operators_without_products_cost_nothing_and_are_known() -> None:
    node = helper.make_node("Relu", ["x0"], ["y"])
    assert onnx_macs.node_macs(node, {}) == 0
    assert onnx_macs.is_known(node) and not onnx_macs.has_products(node)


@pytest.mark.parametrize(
    ("kind", "domain", "known"),
    [
        ("Conv", "", True),
        ("Conv", "ai.onnx", True),
        ("Conv", "com.example", False),
        ("Conv", onnx_macs.ONNXRUNTIME, False),  # its domain has no such operator
        ("QGemm", onnx_macs.ONNXRUNTIME, True),
        ("QGemm", "", False),
        ("Det", "", False),
        ("If", "", False),  # its branches may hold products
    ],
)
def test_an_operator_is_known_in_its_own_domain_only(kind: str, domain: str, known: bool) -> None:
    assert onnx_macs.is_known(helper.make_node(kind, ["x"], ["y"], domain=domain)) is known


def test_no_operator_is_both_with_and_without_products() -> None:
    assert not onnx_macs.FORMULAS.keys() & onnx_macs.WITHOUT_PRODUCTS
    assert not onnx_macs.ONNXRUNTIME_FORMULAS.keys() & onnx_macs.ONNXRUNTIME_WITHOUT_PRODUCTS


def test_every_formula_is_for_an_operator_of_the_standard() -> None:
    standard = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert onnx_macs.FORMULAS.keys() <= standard


def test_a_shape_that_is_missing_names_tensor_and_node() -> None:
    node = helper.make_node("MatMul", ["x0", "x1"], ["y"], name="/head/MatMul")
    with pytest.raises(TargetFailed, match="'x0' at node /head/MatMul"):
        onnx_macs.node_macs(node, {"y": (3, 5)})


def test_deformable_convolution_counts_the_weights_and_not_the_offsets() -> None:
    shapes = [(1, 4, 8, 8), (6, 4, 3, 3), (1, 18, 6, 6)]
    assert macs("DeformConv", shapes, (1, 6, 6, 6)) == prod((6, 6, 6)) * 4 * 9
