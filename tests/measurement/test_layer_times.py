from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from compress.cache import Cache
from compress.config import Config, DeviceConfig, ExportConfig, Figure
from compress.measurement import layer_latency, layer_times
from compress.targets.converter import Converter
from tests.fakes import small_model

BOARD = DeviceConfig(
    "board", peak_gops={"fp32": Figure(100, "a table")}, bandwidth_gb_s=Figure(10, "a table"), precisions=["fp32"]
)


@pytest.fixture
def converter(tmp_path: Path) -> Converter:
    return Converter(tmp_path / "scratch", ExportConfig(), Cache(tmp_path / "cache"))


def pruned(**fields: object) -> Config:
    return Config(stages=["prune"], targets=["onnxruntime"], **fields)  # type: ignore[arg-type]


def test_layers_are_timed_on_this_machine(
    tmp_path: Path, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_latency, "RUNS", 5)
    layer_times.write(tmp_path, pruned(), (small_model(), small_model()), converter)
    record = json.loads((tmp_path / "layer_times.json").read_text())
    assert (record["device"], record["target"], record["precision"]) == ("host", "onnxruntime", "fp32")
    assert record["obtained"] == "measured" and len(record["milliseconds"]) > 1
    assert all(len(pair) == 2 and min(pair) > 0 for pair in record["milliseconds"].values())


def test_layers_of_another_device_are_predicted(tmp_path: Path, converter: Converter) -> None:
    models = (small_model(), small_model())
    layer_times.write(tmp_path, pruned(device=BOARD), models, converter)
    record = json.loads((tmp_path / "layer_times.json").read_text())
    assert (record["device"], record["obtained"]) == ("board", "predicted")
    assert all(before == after for before, after in record["milliseconds"].values())


def test_nothing_is_written_if_nothing_is_known(tmp_path: Path, converter: Converter) -> None:
    model, other = small_model(), small_model()
    unknown = pruned(device=replace(BOARD, bandwidth_gb_s=None))
    for config, models in [
        (Config(stages=["finetune"], targets=["onnxruntime"]), (model, other)),
        (replace(pruned(), targets=[]), (model, other)),
        (pruned(), (model, model)),
        (unknown, (model, other)),
    ]:
        layer_times.write(tmp_path, config, models, converter)
    assert not (tmp_path / "layer_times.json").exists()


def test_parts_of_a_divided_layer_are_added_up() -> None:
    before = {"stem": 1.0, "block.2.cv1.conv": 4.0, "block.2.cv2.conv": 3.0, "gone.a": 2.0}
    after = {"stem": 0.5, "block.2.first.conv": 1.0, "block.2.second.conv": 2.0, "block.2.cv2.conv": 3.0}
    pairs = {"stem": (1.0, 0.5), "block.2": (4.0, 3.0), "block.2.cv2.conv": (3.0, 3.0), "gone.a": (2.0, 0.0)}
    assert layer_times.paired(before, after) == pairs
