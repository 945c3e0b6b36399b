"""Files are judged once a run."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import compress
from compress import checkpoint, targets
from compress.config import ExportConfig
from compress.errors import UserError
from compress.measurement import rows
from tests.fakes import small_model
from tests.models import onnx_files as files
from tests.stages.test_quantize import data


def test_the_same_bytes_are_not_judged_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = small_model()
    graph = targets.get("onnxruntime").convert(model, tmp_path / "a", ExportConfig())
    evaluated = []
    accuracy = rows._accuracy
    monkeypatch.setattr(rows, "_accuracy", lambda *given: evaluated.append(given) or accuracy(*given))
    monkeypatch.setattr(rows, "TIMING_SECONDS", 0.01)
    found: dict[str, Any] = {}
    costs = rows.Costs.of(model)

    def row(graph: Any) -> Any:
        return rows.measure_graph("export", graph, model, costs, data(4), threads=1, cached=False, measured=found)

    first = row(graph)
    again = row(targets.get("onnxruntime").convert(model, tmp_path / "b", ExportConfig()))
    assert len(evaluated) == 1 and again.accuracy == first.accuracy
    before, after = first.latency_ms, again.latency_ms  # timed on two occasions, told as one
    if not (before.contended or after.contended):
        assert after.runs > before.runs and after.low <= after.median <= after.high
    emulated = row(targets.get("tensorrt").convert(model, tmp_path / "d", ExportConfig()))
    assert len(evaluated) == 1  # ONNX Runtime stands in for TensorRT, and a float graph is the same to both
    assert emulated.accuracy == replace(first.accuracy, obtained="emulated")
    assert emulated.latency_ms.median is None
    other: Any = small_model()
    other.net[0].weight.data *= 2
    row(targets.get("onnxruntime").convert(other, tmp_path / "c", ExportConfig()))
    assert len(evaluated) == 2


def test_rows_are_timed_in_turns_with_the_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TIMING_SECONDS", 0.2)
    model: Any = small_model()
    slow: Any = small_model()
    forward = slow.net.forward
    slow.net.forward = lambda images: (time.sleep(0.002), forward(images))[1]
    costs = rows.Costs.of(model)

    def timing(model: Any, baseline: Any) -> Any:
        row = rows.measure_model("load", model, costs, data(4), threads=1, cached=False, baseline=baseline)
        return row.latency_ms

    assert (timing(model, model).ratio, timing(model, model).ratio_ci95) == (1.0, (1.0, 1.0))
    found = timing(model, slow)
    assert found.ratio_ci95[0] <= found.ratio <= found.ratio_ci95[1] < 0.9
    assert timing(model, None).ratio is None
    base, other = (targets.get("onnxruntime").convert(model, tmp_path / name, ExportConfig()) for name in "ab")
    facts: Any = {"threads": 1, "cached": False, "measured": {}, "baseline": base}
    assert rows.measure_graph("load", base, model, costs, data(4), **facts).latency_ms.ratio == 1.0
    low, high = rows.measure_graph("export", other, model, costs, data(4), **facts).latency_ms.ratio_ci95
    assert 0 < low <= high and (low, high) != (1.0, 1.0)


def test_the_size_of_a_torch_row_is_that_of_the_saved_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TIMING_SECONDS", 0.01)
    model = small_model()
    assert isinstance(model.net, nn.Sequential)
    model.net.append(nn.BatchNorm1d(3))  # its running statistics and its counter, int64, are in the file too
    checkpoint.save(model, tmp_path / "pruned")
    row = rows.measure_model("prune", model, rows.Costs.of(model), data(4), threads=1, cached=False)
    assert row.size_bytes == (tmp_path / "pruned" / "model.safetensors").stat().st_size


def test_flops_of_a_file_are_those_at_its_own_size(tmp_path: Path) -> None:
    model = files.build(files.classifier(), tmp_path)
    macs = 8 * 8 * 8 * 27 + 8 * 8 * 8 * 72 + 80
    assert compress.get_flops(model, imgsz=16) == 2 * macs
    with pytest.raises(UserError, match="set 16"):
        compress.get_flops(model, imgsz=640)
