from __future__ import annotations

from types import SimpleNamespace

import pytest

from compress.targets import litert_graph


def test_tensors_that_live_at_the_same_time_lie_side_by_side() -> None:
    pytest.importorskip("ai_edge_litert")
    from ai_edge_litert.schema_py_generated import TensorType

    def tensor(size: int, kind: int = TensorType.INT8) -> SimpleNamespace:
        return SimpleNamespace(shape=(1, size), type=kind)

    def operator(inputs: list[int], output: int) -> SimpleNamespace:
        return SimpleNamespace(inputs=inputs, outputs=[output])

    # 0 -> 1 -> 2 -> 3, and 0 is added to 2 again; tensor 4 is a weight and needs no memory in the arena.
    tensors = [tensor(64), tensor(160), tensor(64), tensor(16, TensorType.FLOAT32), tensor(9999)]
    operators = [operator([0, 4], 1), operator([1], 2), operator([2, 0], 3)]
    graph = SimpleNamespace(subgraphs=[SimpleNamespace(tensors=tensors, operators=operators, inputs=[0], outputs=[3])])
    assert litert_graph.arena_bytes(graph) == 64 + 160 + 64
    operators[2].inputs = [2]  # now tensor 0 is free before tensor 2 is computed
    assert litert_graph.arena_bytes(graph) == 160 + 64


def test_of_equal_tensors_the_last_is_placed_first() -> None:
    """As TensorFlow Lite Micro's planner does, which sorts from the end; sizes of digits_cnn, measured with it."""
    pytest.importorskip("ai_edge_litert")
    from ai_edge_litert.schema_py_generated import TensorType

    sizes = (2048, 2048, 2048, 2048, 3200)
    tensors = [SimpleNamespace(shape=(1, size), type=TensorType.INT8) for size in sizes]
    chain = (([0], 1), ([1], 2), ([0, 2], 3), ([3], 4))
    operators = [SimpleNamespace(inputs=inputs, outputs=[output]) for inputs, output in chain]
    graph = SimpleNamespace(subgraphs=[SimpleNamespace(tensors=tensors, operators=operators, inputs=[0], outputs=[4])])
    assert litert_graph.arena_bytes(graph) == 3200 + 2 * 2048
