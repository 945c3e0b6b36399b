"""Export to ONNX, and what is read from ONNX files without running them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compress.errors import TargetFailed
from compress.targets import onnx_graph
from compress.targets.quantization_exclusions import Node
from tests.fakes import FakeModel


def test_macs_of_an_onnx_graph(model: FakeModel, tmp_path: Path) -> None:
    path = onnx_graph.export(model, tmp_path / "model.onnx", 17)
    assert sum(layer.macs for layer in onnx_graph.layers(path, ())) == 16 * 16 * 16 * 27 + 8 * 8 * 32 * 16 * 9 + 32 * 3


def test_metadata_is_embedded(model: FakeModel, tmp_path: Path) -> None:
    path = onnx_graph.export(model, tmp_path / "model.onnx", 17)
    assert {entry.key: entry.value for entry in onnx_graph.read(path).metadata_props} == model.metadata()


def test_denormals_are_rounded_to_zero(tmp_path: Path) -> None:
    """In a separate process: ONNX Runtime reads the entry from the first session of a process only."""
    nodes = [helper.make_node("Mul", ["x", "y"], ["z"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xyz"]
    inner, opset = helper.make_graph(nodes, "g", values[:2], values[2:]), helper.make_opsetid("", 17)
    graph = helper.make_model(inner, ir_version=8, opset_imports=[opset])
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    code = (
        "import sys, numpy as np; from pathlib import Path; from compress.targets import onnx_graph as g;"
        "s = g.open_session(Path(sys.argv[1]), g.session_options(1)); small = np.full(1, 1e-20, np.float32);"
        "print(s.run(None, {'x': small, 'y': small})[0][0])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.onnx")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "0.0"


def product_graph(opset: int = 17) -> ModelProto:
    """x (1, 2) times two equal constants, one after the other: a tensor with a long name lies between them."""
    constants = [numpy_helper.from_array(np.array([[1, 2], [3, 4]], np.float32), name) for name in ("one", "other")]
    nodes = [
        helper.make_node("MatMul", ["images", "one"], ["a/long/name/of/a/tensor"], name="first"),
        helper.make_node("MatMul", ["a/long/name/of/a/tensor", "other"], ["output0"], name="second"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("images", "output0")]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def answers(graph: ModelProto, path: Path) -> np.ndarray:
    path.write_bytes(graph.SerializeToString())
    session = onnx_graph.open_session(path, onnx_graph.session_options(1))
    return session.run(None, {"images": np.array([[5, 6]], np.float32)})[0]


def test_shrinking_merges_equal_constants_and_keeps_the_function(tmp_path: Path) -> None:
    graph = product_graph()
    before = graph.ByteSize()
    onnx_graph.shrink(graph)
    assert len(graph.graph.initializer) == 1 and graph.ByteSize() < before - 20
    assert [node.name for node in graph.graph.node] == ["first", "second"]
    assert [value.name for value in (*graph.graph.input, *graph.graph.output)] == ["images", "output0"]
    matrix = np.array([[1, 2], [3, 4]])
    assert answers(graph, tmp_path / "model.onnx").tolist() == ([[5, 6]] @ matrix @ matrix).tolist()


def test_constants_of_equal_bytes_but_another_shape_or_type_are_not_merged() -> None:
    graph = product_graph()
    values = np.array([1, 2, 3, 4], np.float32)
    for name, array in (("flat", values), ("bits", values.view(np.int32).reshape(2, 2))):
        graph.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx_graph.shrink(graph)
    assert sorted((tuple(each.dims), each.data_type) for each in graph.graph.initializer) == [
        ((2, 2), TensorProto.FLOAT), ((2, 2), TensorProto.INT32), ((4,), TensorProto.FLOAT),
    ]  # fmt: skip


def test_what_is_saved_holds_nothing_that_no_runtime_needs(tmp_path: Path) -> None:
    graph = product_graph()
    graph.opset_import.append(helper.make_opsetid("com.example", 1))
    graph.doc_string = graph.graph.node[0].doc_string = "a secret path"
    graph.graph.value_info.append(helper.make_tensor_value_info("a/long/name/of/a/tensor", TensorProto.FLOAT, [1, 2]))
    onnx_graph.save(graph, tmp_path / "new" / "model.onnx", {"names": "{0: 'a'}"})
    result = onnx_graph.read(tmp_path / "new" / "model.onnx")
    assert b"a secret path" not in (tmp_path / "new" / "model.onnx").read_bytes()
    assert not result.graph.value_info
    assert [(each.domain, each.version) for each in result.opset_import] == [("", 17)]
    assert {each.key: each.value for each in result.metadata_props} == {"names": "{0: 'a'}"}


def test_weights_behind_a_q_dq_pair_are_constants() -> None:
    constants = [
        numpy_helper.from_array(np.ones((2, 2), np.int8), "w"),
        numpy_helper.from_array(np.array(0.5, np.float32), "scale"),
    ]
    made = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["weights"], name="dequantize"),
        helper.make_node("MatMul", ["images", "weights"], ["inner"], name="layer"),
        helper.make_node("MatMul", ["inner", "inner"], ["output0"], name="attention"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("images", "output0")]
    graph = helper.make_model(helper.make_graph(made, "graph", ends[:1], ends[1:], constants))
    assert onnx_graph.nodes(graph) == [
        Node("layer", (), weighted=True, product=False),
        Node("attention", ("layer", "layer"), weighted=False, product=True),
    ]


def test_shapes_are_those_of_constants_and_of_static_tensors() -> None:
    graph = product_graph()
    graph.graph.value_info.append(helper.make_tensor_value_info("open", TensorProto.FLOAT, ["n", 2]))
    assert onnx_graph.static_shapes(graph) == {"one": (2, 2), "other": (2, 2), "images": (1, 2), "output0": (1, 2)}


def test_the_opset_is_that_of_the_standard_domain() -> None:
    graph = product_graph(15)
    graph.opset_import.insert(0, helper.make_opsetid("com.example", 3))
    assert onnx_graph.own_opset(graph) == 15
    del graph.opset_import[:]
    assert onnx_graph.own_opset(graph) == 0


def test_a_network_that_torch_cannot_export_fails_its_target(tmp_path: Path) -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("out of ideas")

    with pytest.raises(TargetFailed, match="torch cannot export this network to ONNX: out of ideas"):
        onnx_graph.export(FakeModel(Fails()), tmp_path / "model.onnx", 17)


@pytest.mark.parametrize("content", [None, b"not a graph"])
def test_a_missing_or_damaged_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TargetFailed, match=r"not a readable ONNX file: .*model\.onnx"):
        onnx_graph.read(path)
