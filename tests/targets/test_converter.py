"""Conversion once per model and target."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from compress import targets
from compress.cache import Cache
from compress.capabilities import Model
from compress.config import ExportConfig
from compress.errors import TargetFailed
from compress.product import Graph
from compress.targets import onnxruntime
from compress.targets.converter import Converter
from tests.fakes import FakeModel, small_model

Convert = Callable[[Model, Path, ExportConfig], Graph]


def counted(monkeypatch: pytest.MonkeyPatch, convert: Convert = onnxruntime.convert) -> list[str]:
    """Identities of the models that the target onnxruntime converts."""
    converted: list[str] = []

    def count(model: Model, folder: Path, config: ExportConfig) -> Graph:
        converted.append(model.identity())
        return convert(model, folder, config)

    monkeypatch.setattr(onnxruntime, "convert", count)
    return converted


def test_a_model_is_converted_at_its_first_request_only(
    model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = counted(monkeypatch)
    converter = Converter(tmp_path, ExportConfig(), Cache(tmp_path / "cache"))
    graph = converter.fp32(model, "onnxruntime")
    assert converter.fp32(small_model(), "onnxruntime") is graph  # equal weights
    assert converted == [model.identity()]
    assert graph.path.is_relative_to(tmp_path)


def test_other_weights_get_a_file_of_their_own(model: FakeModel, tmp_path: Path) -> None:
    converter = Converter(tmp_path, ExportConfig(), Cache(tmp_path / "cache"))
    changed = model.with_net(small_model().net)
    next(changed.net.parameters()).data.mul_(2)
    one, two = (converter.fp32(each, "onnxruntime").path for each in (model, changed))
    assert one != two and one.read_bytes() != two.read_bytes()


def test_a_failed_conversion_is_tried_again(model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: Model, folder: Path, config: ExportConfig) -> Graph:
        raise TargetFailed("no operator")

    converted = counted(monkeypatch, fail)
    converter = Converter(tmp_path, ExportConfig(), Cache(tmp_path / "cache"))
    for _ in range(2):
        with pytest.raises(TargetFailed, match="no operator"):
            converter.fp32(model, "onnxruntime")
    assert len(converted) == 2


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tensorrt"])
def test_folders_of_sweeps_have_signs_in_their_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "prune.ratio=0.1,stages=[prune, export]"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))  # as `run_folder` sets it
    assert targets.get(name).convert(small_model(), folder, ExportConfig()).path.is_file()
