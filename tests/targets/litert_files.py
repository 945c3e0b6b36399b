"""Objects of TensorFlow Lite's schema, as `litert_graph.read` returns them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest


def tensor(shape: tuple[int, ...], kind: str = "FLOAT32", constant: bool = False) -> tuple[Any, ...]:
    return shape, kind, constant


def model(
    tensors: list[Any], operators: list[Any], inputs: list[int] | None = None, outputs: list[int] | None = None
) -> Any:
    """A file whose tensors are named t0, t1, …; operators are (kind, inputs, outputs, options). The input is the first
    tensor and the output the last one, unless given."""
    pytest.importorskip("ai_edge_litert")
    from ai_edge_litert import schema_py_generated as schema

    made = schema.ModelT()
    made.version, made.buffers, made.operatorCodes = 3, [schema.BufferT()], []
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], inputs or [0], outputs or [len(tensors) - 1]
    for index, (shape, kind, constant) in enumerate(tensors):
        each = schema.TensorT()
        each.shape, each.type, each.name = list(shape), getattr(schema.TensorType, kind), f"t{index}".encode()
        each.buffer = 0
        if constant:
            each.buffer = len(made.buffers)
            made.buffers.append(schema.BufferT())
            made.buffers[-1].data = b"\0"
        graph.tensors.append(each)
    for kind, read, written, options in operators:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        operator.opcodeIndex, operator.inputs, operator.outputs = len(made.operatorCodes), read, written
        operator.builtinOptions = SimpleNamespace(**options)
        made.operatorCodes.append(code)
        graph.operators.append(operator)
    made.subgraphs = [graph]
    return made
