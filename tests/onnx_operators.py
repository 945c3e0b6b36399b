"""ONNX graphs of single operators and of small torch networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compress.targets import onnx_graph


def exported(net: nn.Module, example: Tensor, folder: Path) -> ModelProto:
    torch.onnx.export(net.eval(), (example,), str(folder / "raw.onnx"), dynamo=False, opset_version=17)
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnx_graph.optimized(folder / "raw.onnx", folder / "net.onnx", level)
    return onnx.load(folder / "net.onnx")


def single(
    kind: str,
    inputs: dict[str, Any],
    output: tuple[int, ...],
    *,
    types: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    domain: str = "",
    **attributes: Any,
) -> ModelProto:
    """One operator: shapes are inputs of the graph, arrays are constants, of the types (input, output)."""
    given = [helper.make_tensor_value_info(n, types[0], v) for n, v in inputs.items() if isinstance(v, tuple)]
    constants = [numpy_helper.from_array(v, n) for n, v in inputs.items() if isinstance(v, np.ndarray)]
    names = [name if value is not None else "" for name, value in inputs.items()]
    node = helper.make_node(kind, names, ["y"], name="/layer/node", domain=domain, **attributes)
    answer = helper.make_tensor_value_info("y", types[1], output)
    graph = helper.make_graph([node], "graph", given, [answer], constants)
    opsets = [helper.make_opsetid("", 24), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets)


class First(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]
