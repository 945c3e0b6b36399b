"""LiteRT files: profiled as the model that they were converted from, or refused in one line."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

from compress.config import ExportConfig
from compress.errors import MissingExtra, UserError
from compress.profiling import litert_file, source, table
from compress.profiling import profile as profiling
from compress.profiling.profile import count, profile
from compress.targets import litert, litert_arena, litert_graph
from tests.fakes import FakeModel
from tests.profiling.profiles import ROOF
from tests.targets.mixed_network import Mixed


@pytest.fixture(scope="module")
def tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in litert.PACKAGES:
        pytest.importorskip(package)
    return litert.convert(FakeModel(Mixed(), imgsz=32), tmp_path_factory.mktemp("litert"), ExportConfig()).path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "SECONDS", 0.05)


def test_a_file_is_counted_and_timed_in_its_runtime(tflite: Path, tmp_path: Path) -> None:
    found = profile(count("file", source.find(str(tflite), tmp_path)()), 1, ROOF)
    assert [speed.runtime.split()[0] for speed in found.speeds] == ["litert"]
    assert (found.imgsz, found.modules, found.size_bytes) == (32, None, tflite.stat().st_size)
    assert {layer.name: layer.macs for layer in found.layers}["stem"] == 8 * 256 * 27
    assert found.activation_bytes == litert_arena.arena_bytes(litert_graph.read(tflite))
    assert not found.layers_timed and "has no profiler" in table.dear_text(found)
    assert found.operators and found.bit_operations == 1024 * found.macs


def test_open_dimensions_are_set(tflite: Path, tmp_path: Path) -> None:
    flatbuffers, file = importlib.import_module("ai_edge_litert.tools.flatbuffer_utils"), litert_graph.read(tflite)
    image = file.subgraphs[0].tensors[file.subgraphs[0].inputs[0]]
    image.shape, image.shapeSignature = [1, 3, 1, 1], [-1, 3, -1, -1]
    flatbuffers.write_model(file, str(tmp_path / "open.tflite"))
    (tmp_path / "scratch").mkdir()
    subject = litert_file.read(tmp_path / "open.tflite", tmp_path / "scratch", 32)
    found = profile(count("file", subject), 1, ROOF)
    assert found.macs == profile(count("file", litert_file.read(tflite, tmp_path)), 1, ROOF).macs
    with pytest.raises(UserError, match=r"open\.tflite: its input has shape .*: set --imgsz"):
        litert_file.read(tmp_path / "open.tflite", tmp_path)
    with pytest.raises(UserError, match=r"open\.tflite: does not take images of shape \[1, 3, 48, 48\]"):
        litert_file.read(tmp_path / "open.tflite", tmp_path / "scratch", 48)  # reshapes to fixed sizes


def test_files_that_cannot_be_read_are_named(tflite: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    whole = tflite.read_bytes()
    for content in (b"", b"x" * 1000, b"\0" * 2000, whole[: len(whole) // 2], whole[:-100]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"model=.*net\.tflite: (not a LiteRT file, or damaged|LiteRT rejects)"):
            litert_file.read(path, tmp_path)


def test_litert_must_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    path = tmp_path / "net.tflite"
    path.touch()
    with pytest.raises(MissingExtra, match=r"pip install -e '.\[litert\]'"):
        litert_file.read(path, tmp_path)
