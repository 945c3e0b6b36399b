from __future__ import annotations

from pathlib import Path

import pytest

from compress.product import ENGINE, Graph, Precision


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("model.onnx", ["model.onnx"]),
        ("model.tflite", ["model.tflite"]),
        ("model.xml", ["model.xml", "model.bin"]),
        ("model.param", ["model.param", "model.bin"]),
    ],
)
def test_a_graph_names_every_file_that_its_runtime_reads(name: str, files: list[str]) -> None:
    graph = Graph(Path("folder", name), "target", Precision.int8)
    assert graph.files == tuple(Path("folder", each) for each in files)


def test_an_engine_belongs_to_the_graph_in_its_folder(tmp_path: Path) -> None:
    graph = Graph(tmp_path / "model.onnx", "tensorrt", Precision.fp16)
    assert graph.engine is None
    (tmp_path / ENGINE).write_bytes(b"built")
    assert graph.engine == tmp_path / ENGINE and graph.files == (tmp_path / "model.onnx",)
