from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compress.budget import chance_level_remark
from compress.cache import Cache
from compress.config import Config, ExportConfig, Measure
from compress.ledger import Ledger, Row
from compress.measurement import latency, rows
from compress.measurement.rows import Costs
from compress.product import Product
from compress.recorder import LOAD, Recorder
from compress.stages.context import Context
from compress.targets.converter import Converter
from compress.trackers import Trackers
from tests.fakes import FakeModel, small_model
from tests.stages.conftest import config, data


@pytest.fixture(autouse=True)
def short_and_undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TIMING_SECONDS", 0.02)
    monkeypatch.setattr(latency, "CONTENDED", 2.0)  # of a fraction: never


def recorded(folder: Path, model: FakeModel, settings: Config) -> list[Row]:
    """Rows of the loaded model, in torch and in ONNX Runtime. The cache is shared by all folders."""
    folder.mkdir()
    cache = Cache(folder.parent / "cache")
    scratch = folder / "scratch"
    context = Context(settings, data(), folder, scratch, cache, Converter(scratch, ExportConfig(), cache))
    ledger = Ledger(folder / "ledger.jsonl", "run")
    Recorder(context, ledger, Trackers()).record(LOAD, Product(model), Costs.of(model))
    return ledger.rows


def test_an_unchanged_model_is_measured_once(tmp_path: Path) -> None:
    settings = replace(config(), targets=["onnxruntime"], force=True)
    first = recorded(tmp_path / "a", small_model(), settings)
    assert [(row.target, row.cached) for row in first] == [(None, False), ("onnxruntime", False)]
    again = recorded(tmp_path / "b", small_model(), settings)
    assert all(row.cached and row.latency_ms and row.latency_ms.reused for row in again)
    assert [replace(row, cached=False, latency_ms=None) for row in again] == [
        replace(row, latency_ms=None) for row in first
    ]
    changed = small_model()
    next(changed.net.parameters()).data.mul_(2)
    for number, (model, given) in enumerate(
        [(changed, settings), (small_model(), replace(settings, measure=Measure.again))]
    ):
        assert not any(row.cached for row in recorded(tmp_path / str(number), model, given))


def test_a_baseline_that_guesses_stops_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    cache = Cache(tmp_path / "cache")
    settings = replace(config(), targets=[], stages=["prune"])
    context = Context(settings, data(), folder, folder, cache, Converter(folder, ExportConfig(), cache))
    recorder, model = Recorder(context, Ledger(folder / "ledger.jsonl", "run"), Trackers()), small_model()
    recorder.record(LOAD, Product(model), Costs.of(model))
    assert recorder.baseline is model and recorder.baseline_row is not None
    assert recorder.stop_reason == chance_level_remark(recorder.baseline_row) is not None
