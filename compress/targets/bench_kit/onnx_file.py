"""Writes the graph of a block as an ONNX file. Needs no ONNX package: a file is a protobuf message
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), that is a sequence of numbered fields."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

IR_VERSION, OPSET = 8, 17
FLOAT, INT64 = 1, 7  # TensorProto.DataType


def encode(block: "Any") -> bytes:
    """A ModelProto of a `blocks.Block`."""
    graph = [field(1, node(f"n{index}", *each)) for index, each in enumerate(block.nodes)]
    graph.append(field(2, "block"))
    graph += [field(5, tensor(name, array)) for name, array in block.constants.items()]
    graph.append(field(11, value(block.INPUT, block.input_shape)))
    graph.append(field(12, value(block.OUTPUT, block.output_shape)))
    return field(1, IR_VERSION) + field(7, b"".join(graph)) + field(8, field(2, OPSET))


def node(name: str, operator: str, inputs: Sequence, outputs: Sequence, attributes: dict) -> bytes:
    parts = [field(1, each) for each in inputs] + [field(2, each) for each in outputs]
    parts += [field(3, name), field(4, operator)]
    return b"".join(parts + [field(5, attribute(key, each)) for key, each in attributes.items()])


def attribute(name: str, content: object) -> bytes:
    """An AttributeProto of a float, an integer, a text or integers; its type is field 20."""
    if isinstance(content, float):
        return field(1, name) + key(2, 5) + struct.pack("<f", content) + field(20, 1)
    if isinstance(content, int):
        return field(1, name) + field(3, content) + field(20, 2)
    if isinstance(content, str):
        return field(1, name) + field(4, content) + field(20, 3)
    return field(1, name) + b"".join(field(8, each) for each in content) + field(20, 7)  # type: ignore[attr-defined]


def tensor(name: str, array: np.ndarray) -> bytes:
    """A TensorProto with raw data."""
    kind = INT64 if array.dtype == np.int64 else FLOAT
    sizes = b"".join(field(1, size) for size in array.shape)
    return sizes + field(2, kind) + field(8, name) + field(9, array.tobytes())


def value(name: str, shape: Sequence) -> bytes:
    """A ValueInfoProto of a float tensor."""
    sizes = b"".join(field(1, field(1, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, FLOAT) + field(2, sizes)))


def field(number: int, content: "int | str | bytes") -> bytes:
    """A field with an integer, or with a text or message and its length."""
    if isinstance(content, int):
        return key(number, 0) + varint(content)
    data = content.encode() if isinstance(content, str) else content
    return key(number, 2) + varint(len(data)) + data


def key(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def varint(number: int) -> bytes:
    """Seven bits per byte, lowest first; negative numbers as 64 bits in two's complement."""
    number &= 2**64 - 1
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    return bytes(result) + bytes([number])
