from __future__ import annotations

from pathlib import Path

import pytest

from compress.errors import TargetFailed
from compress.targets import litert_graph
from tests.targets.litert_files import model, tensor


def test_operators_and_types_have_the_names_of_the_schema() -> None:
    made = model([tensor((1, 4), "INT8"), tensor((1, 4))], [("DEQUANTIZE", [0], [1], {})])
    graph = made.subgraphs[0]
    assert litert_graph.kind_of(made, graph.operators[0]) == "DEQUANTIZE"
    assert [litert_graph.type_of(each) for each in graph.tensors] == ["INT8", "FLOAT32"]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "net.tflite"
    for content in (b"", b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(TargetFailed, match="not a readable LiteRT file"):
            litert_graph.read(path)
