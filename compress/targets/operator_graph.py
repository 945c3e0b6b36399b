"""Operators of files that are not ONNX, written as an ONNX graph, so that one set of formulas counts all formats. The
graph has the shapes and types of all tensors, but no values of constants: it can be counted, not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, helper


class OperatorGraph:
    """Collects operators in order of execution. Tensors must be declared, by `value` or `constant`, before `build`."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._types: dict[str, tuple[int, tuple[int, ...] | None]] = {}  # {tensor: type and shape}
        self._constants: dict[str, TensorProto] = {}
        self._names: set[str] = set()

    def value(self, name: str, kind: int, shape: Sequence[int] | None) -> str:
        """Declares an activation of an ONNX type; `shape` is None if it is not static. Returns its name."""
        self._types[name] = kind, None if shape is None else tuple(shape)
        return name

    def constant(self, name: str, kind: int, shape: Sequence[int]) -> str:
        """Declares a constant; one that is declared twice with different shapes gets two names. Returns its name."""
        known = self._constants.get(name)
        if known is not None and tuple(known.dims) != tuple(shape):
            name = f"{name} {list(shape)}"
        self._constants[name] = TensorProto(name=name, data_type=kind, dims=shape)
        return name

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def declared(self, name: str) -> tuple[int, tuple[int, ...] | None]:
        """The ONNX type and the shape of a tensor; the shape is None if it is not static."""
        tensor = self._constants.get(name)
        return self._types[name] if tensor is None else (tensor.data_type, tuple(tensor.dims))

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """The declared shape of a tensor; None if it is not static."""
        return self.declared(name)[1]

    def reshaped(self, name: str, shape: Sequence[int]) -> str:
        """The same tensor with another shape: a constant, or a view."""
        if self.shape_of(name) in (None, tuple(shape)):
            return name
        if name in self._constants:
            return self.constant(name, self.declared(name)[0], shape)
        view = f"{name} {list(shape)}"
        if view not in self._types:
            self.value(view, self.declared(name)[0], shape)
            self.node("Reshape", view, [name], [view])
        return view

    def node(
        self, kind: str, name: str, inputs: Sequence[str], outputs: Sequence[str], own: str = "", **attributes: Any
    ) -> None:
        """Appends an operator of a standard `kind`; `own` is what its file calls it, if that is another name. A
        `domain` among the attributes marks an operator that ONNX lacks. A name that is taken gets a number."""
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}.{number}"
        self._names.add(unique)
        self._nodes.append(helper.make_node(kind, inputs, outputs, unique, doc_string=own, **attributes))

    def build(self, inputs: Sequence[str], outputs: Sequence[str]) -> ModelProto:
        """The graph, with the constants that its operators read."""
        types = {name: helper.make_tensor_value_info(name, *each) for name, each in self._types.items()}
        read = {name for node in self._nodes for name in node.input}
        constants = [tensor for name, tensor in self._constants.items() if name in read]
        values = [each for name, each in types.items() if name not in (*inputs, *outputs)]
        read_from, written_to = ([types[name] for name in names if name in types] for names in (inputs, outputs))
        graph = helper.make_graph(self._nodes, "operators", read_from, written_to, constants, value_info=values)
        return helper.make_model(graph)
