from __future__ import annotations

from onnx import TensorProto

from compress.measurement import graph_cost
from compress.targets.operator_graph import OperatorGraph

FLOAT = TensorProto.FLOAT


def test_a_graph_without_values_of_constants_can_be_counted() -> None:
    graph = OperatorGraph()
    x, y = graph.value("x", FLOAT, (1, 3, 4, 4)), graph.value("y", FLOAT, (1, 8, 4, 4))
    weights = graph.constant("w", FLOAT, (8, 3, 1, 1))
    graph.constant("unused", FLOAT, (5,))
    graph.node("Conv", "/conv/Conv", [x, weights], [y], own="CONV_2D", group=1)
    built = graph.build([x], [y])
    cost = graph_cost.count(built)
    assert (cost.macs, cost.params, cost.bytes_moved) == (8 * 16 * 3, 24, 4 * (48 + 24 + 128))
    assert built.graph.node[0].doc_string == "CONV_2D" and len(built.graph.initializer) == 1


def test_names_are_unique() -> None:
    graph = OperatorGraph()
    for _ in range(3):
        graph.node("Relu", "relu", ["x"], ["y"])
    assert [node.name for node in graph.build([], []).graph.node] == ["relu", "relu.2", "relu.3"]


def test_another_shape_is_a_view_of_an_activation_and_a_constant_of_its_own() -> None:
    graph = OperatorGraph()
    x, w = graph.value("x", FLOAT, (2, 3)), graph.constant("w", TensorProto.INT8, (4, 1))
    assert (graph.reshaped(x, (2, 3)), graph.reshaped(w, (4, 1))) == (x, w)
    view, other = graph.reshaped(x, (6,)), graph.reshaped(w, (4,))
    assert graph.declared(view) == (FLOAT, (6,)) and graph.reshaped(x, (6,)) == view
    assert graph.declared(other) == (TensorProto.INT8, (4,)) and graph.is_constant(other)
    graph.value("open", FLOAT, None)
    assert graph.shape_of("open") is None and graph.reshaped("open", (6,)) == "open"
    assert [node.op_type for node in graph.build([], []).graph.node] == ["Reshape"]
