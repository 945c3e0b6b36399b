"""The writer of ONNX files, beside the package onnx."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compress.targets.bench_kit import onnx_file
from compress.targets.bench_kit.blocks import Block


def test_a_file_has_the_nodes_and_constants_of_the_block() -> None:
    block = Block("3x8x8 conv:4,3 leaky tokens ln")
    graph = onnx.load_from_string(onnx_file.encode(block)).graph
    assert [node.op_type for node in graph.node] == [node[0] for node in block.nodes]
    read = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    assert read.keys() == block.constants.keys()
    assert all(np.array_equal(read[name], array) for name, array in block.constants.items())
    attributes = {each.name: onnx.helper.get_attribute_value(each) for node in graph.node for each in node.attribute}
    assert attributes["pads"] == [1, 1, 1, 1] and attributes["alpha"] == pytest.approx(0.1)
    assert attributes["axis"] == -1 and attributes["group"] == 1


@pytest.mark.parametrize(("number", "expected"), [(0, b"\0"), (300, b"\xac\x02"), (-1, b"\xff" * 9 + b"\x01")])
def test_integers_have_seven_bits_per_byte(number: int, expected: bytes) -> None:
    assert onnx_file.varint(number) == expected
