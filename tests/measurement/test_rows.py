"""Rows of models and files: what is timed and evaluated, and how often."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from torch import Tensor, nn

import compress
from compress import checkpoint, ledger, targets
from compress.capabilities import Checkpointable
from compress.config import ExportConfig, compose
from compress.data import DataSet, Sample, Split
from compress.errors import UserError
from compress.measurement import latency, rows
from compress.measurement.roofline import Roofline
from compress.models import build
from compress.product import Graph
from compress.tasks import DETECT, Outputs, Predictions
from tests.fakes import Clock, FakeModel, detections, small_classifier, small_model
from tests.models import onnx_files as files
from tests.stages.test_quantize import data


def latency_of(row: ledger.Row) -> ledger.Latency:
    assert row.latency_ms is not None
    return row.latency_ms


def test_the_same_bytes_are_not_judged_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    graph = targets.get("onnxruntime").convert(model, tmp_path / "a", ExportConfig())
    accuracy = Mock(wraps=rows._accuracy)
    monkeypatch.setattr(rows, "_accuracy", accuracy)
    monkeypatch.setattr(rows, "TIMING_SECONDS", 0.01)
    result: dict[str, rows.FileMeasurements] = {}
    costs = rows.Costs.of(model)

    def row(graph: Graph) -> ledger.Row:
        return rows.measure_graph("export", graph, model, costs, data(4), threads=1, cached=False, measured=result)

    first = row(graph)
    again = row(targets.get("onnxruntime").convert(model, tmp_path / "b", ExportConfig()))
    assert accuracy.call_count == 1 and again.accuracy == first.accuracy
    before, after = latency_of(first), latency_of(again)  # timed on two occasions, told as one
    if not (before.contended or after.contended) and after.runs != before.runs:  # a contended timing is dropped
        assert after.runs is not None and before.runs is not None and after.runs > before.runs
        assert after.low is not None and after.median is not None and after.high is not None
        assert after.low <= after.median <= after.high
    emulated = row(targets.get("tensorrt").convert(model, tmp_path / "d", ExportConfig()))
    assert accuracy.call_count == 1  # ONNX Runtime stands in for TensorRT, and a float graph is the same to both
    assert first.accuracy is not None
    assert emulated.accuracy == replace(first.accuracy, obtained=ledger.Provenance.emulated)
    assert latency_of(emulated).median is None
    other = small_model()
    next(other.net.parameters()).data *= 2
    row(targets.get("onnxruntime").convert(other, tmp_path / "c", ExportConfig()))
    assert accuracy.call_count == 2


CLOCK = Clock()


class Takes(nn.Module):
    """The identity, which takes a given time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, images: Tensor) -> Tensor:
        CLOCK.sleep(self.seconds)
        return images


def test_a_model_is_timed_in_turns_with_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "time", CLOCK)
    monkeypatch.setattr(rows, "TIMING_SECONDS", 0.2)
    fast, slow = (FakeModel(nn.Sequential(Takes(seconds), small_classifier()), imgsz=32) for seconds in (0.001, 0.004))

    def timing(model: FakeModel, baseline: FakeModel | None) -> ledger.Latency:
        costs = rows.Costs.of(model)
        return latency_of(rows.measure_model("load", model, costs, data(4), threads=1, cached=False, baseline=baseline))

    assert (timing(fast, fast).ratio, timing(fast, fast).ratio_ci95) == (1.0, (1.0, 1.0))
    result = timing(fast, slow)
    assert result.median == pytest.approx(1) and result.ratio == pytest.approx(0.25)
    assert result.ratio_ci95 == pytest.approx((0.25, 0.25))
    assert timing(fast, None).ratio is None


def test_a_file_is_timed_in_turns_with_the_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TIMING_SECONDS", 0.01)
    model = small_model()
    base, other = (targets.get("onnxruntime").convert(model, tmp_path / name, ExportConfig()) for name in "ab")

    def timing(graph: Graph) -> ledger.Latency:
        costs = rows.Costs.of(model)
        return latency_of(
            rows.measure_graph(
                "export", graph, model, costs, data(4), threads=1, cached=False, measured={}, baseline=base
            )
        )

    assert (timing(base).ratio, timing(base).ratio_ci95) == (1.0, (1.0, 1.0))
    result = timing(other)
    assert result.ratio_ci95 is not None and result.ratio is not None
    assert 0 < result.ratio_ci95[0] <= result.ratio <= result.ratio_ci95[1] and result.ratio != 1.0


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


class Finds(FakeModel):
    """Finds one box of two, with the score `score`, and one of nothing, with half of it."""

    score = 0.8

    def decode(self, outputs: Outputs) -> Predictions:
        return [detections((0, self.score, 2, 2, 9, 9), (0, self.score / 2, 20, 20, 30, 30)) for _ in outputs]


class FindsHalfAsSure(Finds):
    score = 0.4


def test_a_detector_states_the_threshold_with_the_precision_of_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TIMING_SECONDS", 0.01)
    label = np.array([[0, 5.5 / 32, 5.5 / 32, 7 / 32, 7 / 32], [0, 0.5, 0.5, 0.1, 0.1]], np.float32)
    samples = [Sample(np.zeros((32, 32, 3), np.uint8), label, (32, 32)) for _ in range(2)]
    split = Split("validation", samples, 32, 3, DETECT)
    dataset = DataSet(DETECT, ("a", "b", "c"), split, split, split, "f")

    def measured(kind: type[Finds], baseline: ledger.Row | None = None) -> ledger.Row:
        model = kind(small_classifier(), task=DETECT, imgsz=32)
        costs = rows.Costs.of(model)
        return rows.measure_model(
            "load", model, costs, dataset, threads=1, cached=False, baseline_row=baseline, wait=False
        )

    first = measured(Finds)
    best = first.thresholds["best_f1"].baseline
    assert (best.threshold, best.precision, best.recall) == (pytest.approx(0.8), 1.0, 0.5)
    assert first.thresholds["confidence_0.25"].baseline == ledger.OperatingPoint(0.25, 0.5, 0.5)
    halved = measured(FindsHalfAsSure, first).thresholds
    assert halved["best_f1"].artifact == ledger.OperatingPoint(pytest.approx(0.4), 1.0, 0.5)  # type: ignore[arg-type]
    assert halved["best_f1"].baseline == best


def test_the_achieved_flops_are_compared_with_the_roof_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "TIMING_SECONDS", 0.01)
    model, peak = small_model(), 50.0
    costs = rows.Costs.of(model)
    graph = targets.get("onnxruntime").convert(model, tmp_path, ExportConfig())
    for roofline, roof in (
        (Roofline({"f32": peak}, 1e9, 1), peak),  # memory so fast that arithmetic is the limit
        (Roofline({"f32": 1e9}, 2.0, 1), 2.0 * costs.at_imgsz.flops / costs.at_imgsz.bytes_moved),
        (Roofline({"int8": peak}, 2.0, 1), None),
        (None, None),
    ):
        row = rows.measure_graph(
            "export", graph, model, costs, data(4), threads=1, cached=False, measured={}, roofline=roofline
        )
        assert row.achieved_gflops is not None
        assert row.roof_fraction == (None if roof is None else pytest.approx(row.achieved_gflops / roof))


def test_costs_are_counted_again_only_for_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(compose(["recipe=digits"]).model, tuple("0123456789"))
    assert isinstance(model, Checkpointable)
    costs = rows.Costs.of(model)
    tuned = model.with_net(copy.deepcopy(model.net))
    next(tuned.net.parameters()).data += 1
    narrower = compress.prune(model, "60%")
    assert costs.after(narrower, model).at_imgsz.macs < costs.at_imgsz.macs
    monkeypatch.setattr(rows.Costs, "of", lambda model: pytest.fail("counted again"))
    assert costs.after(tuned, model) is costs
