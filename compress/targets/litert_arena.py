"""Memory that a LiteRT file needs on a microcontroller, as planned by TensorFlow Lite Micro (LiteRT for
Microcontrollers)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from compress.targets.litert_graph import kind_of, type_of

ALIGNMENT = 16  # bytes
WIDTHS = {"FLOAT32": 4, "INT32": 4, "INT64": 8, "INT16": 2, "FLOAT16": 2}  # others: 1
# Bytes per value of the output that reference kernels request as a scratch buffer, by the type of the image: int32 (or
# int64) sums, in tensorflow/lite/micro/kernels/transpose_conv.cc and reduce_common.cc.
SCRATCH = {
    "TRANSPOSE_CONV": (2, {"INT8": 4, "INT16": 8}),  # input with the image
    "MEAN": (0, {"INT8": 4, "INT16": 4}),
    "SUM": (0, {"INT8": 4, "INT16": 4}),
}


@dataclass(frozen=True)
class _Buffer:
    size: int  # bytes
    first: int  # operators that need it
    last: int


def arena_bytes(graph: Any) -> int:
    """Bytes of the tensor arena for activations and for the scratch buffers of the reference kernels, as laid out by
    the GreedyMemoryPlanner (tensorflow/lite/micro/memory_planner/greedy_memory_planner.cc): the largest buffer first,
    of equal ones the last, each in the first gap between the buffers that are needed at the same time. Not included are
    the interpreter's own data, some kilobytes, and the scratch buffers of optimised kernels such as CMSIS-NN's."""
    placed: list[tuple[_Buffer, int]] = []  # and its first byte
    buffers = list(_buffers(graph))
    for index in sorted(range(len(buffers)), key=lambda index: (-buffers[index].size, -index)):
        buffer = buffers[index]
        alive = sorted(
            (start, start + other.size)
            for other, start in placed
            if other.first <= buffer.last and buffer.first <= other.last
        )
        offset = 0
        for start, end in alive:
            if offset + buffer.size <= start:
                break
            offset = max(offset, end)
        placed.append((buffer, offset))
    return max((start + buffer.size for buffer, start in placed), default=0)


def _buffers(graph: Any) -> Iterator[_Buffer]:
    """The activations by their index, then the scratch buffers."""
    subgraph = graph.subgraphs[0]
    first = {int(tensor): 0 for tensor in subgraph.inputs}
    last: dict[int, int] = {}
    scratch = []
    for step, operator in enumerate(subgraph.operators):
        for tensor in operator.outputs:
            first.setdefault(tensor, step)
        for tensor in (*operator.inputs, *operator.outputs):
            last[tensor] = step
        index, widths = SCRATCH.get(kind_of(graph, operator), (0, {}))
        if width := widths.get(type_of(subgraph.tensors[operator.inputs[index]]), 0):
            size = width * prod(subgraph.tensors[operator.outputs[0]].shape)
            scratch.append(_Buffer(_aligned(size), step, step))
    last |= dict.fromkeys(subgraph.outputs, len(subgraph.operators))
    for tensor in sorted(first):
        each = subgraph.tensors[tensor]
        size = WIDTHS.get(type_of(each), 1) * prod(each.shape)
        yield _Buffer(_aligned(size), first[tensor], last.get(tensor, first[tensor]))
    yield from scratch


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
