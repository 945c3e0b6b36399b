from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.cache import Cache
from compress.config import Config, DataConfig, MetricConfig
from compress.ledger import Accuracy, Latency, Provenance, Row
from compress.measurement import layer_latency
from compress.measurement.reuse import Reuse, conditions, graph_key
from compress.product import ENGINE, Graph, Precision
from compress.training.placement import CPU
from tests.stages.conftest import data


class Measure:
    """Returns rows that tell how often it was called."""

    def __init__(self, *, contended: bool = False) -> None:
        self.calls, self.contended = 0, contended

    def __call__(self) -> Row:
        self.calls += 1
        timing = Latency(
            float(self.calls), 9.0, 30, contended=self.contended, runtime="onnxruntime", threads=1, batch=1,
            device="host", obtained=Provenance.measured, measured_at="2026-11-28T00:00:00+00:00",
        )  # fmt: skip
        scored = Accuracy("top1", 0.5, 100, (0.4, 0.6))
        return Row("export", "onnxruntime", "int8", imgsz=8, macs=10, accuracy=scored, latency_ms=timing)


@pytest.fixture
def reuse(tmp_path: Path) -> Reuse:
    return Reuse(Cache(tmp_path), {"data": "f"})


def test_a_row_is_measured_once(reuse: Reuse) -> None:
    measure = Measure()
    first = reuse.row("export", {"file": "a"}, measure)
    again = reuse.row("export", {"file": "a"}, measure)
    assert measure.calls == 1 and not first.cached and first.latency_ms is not None
    assert again == replace(first, cached=True, latency_ms=replace(first.latency_ms, reused=True))


def test_other_conditions_are_measured(reuse: Reuse) -> None:
    measure = Measure()
    for stage, file, given in (("export", "a", 1), ("quantize", "a", 1), ("export", "b", 1), ("export", "a", 2)):
        replace(reuse, conditions={"data": given}).row(stage, {"file": file}, measure)
    assert measure.calls == 4


def test_a_disturbed_timing_is_measured_again(reuse: Reuse) -> None:
    reuse.row("export", {}, Measure(contended=True))
    quiet = Measure()
    assert not reuse.row("export", {}, quiet).cached and quiet.calls == 1
    assert reuse.row("export", {}, quiet).cached and quiet.calls == 1


def test_everything_is_measured_again_on_request(reuse: Reuse) -> None:
    measure = Measure()
    reuse.row("export", {}, measure)
    again = replace(reuse, cache=Cache(reuse.cache.root, enabled=False))
    assert not again.row("export", {}, measure).cached and measure.calls == 2
    assert reuse.row("export", {}, measure).latency_ms == replace(
        again.row("export", {}, Measure()).latency_ms or Latency(), median=2.0, reused=True
    )


def test_conditions_are_data_metric_threads_and_hardware() -> None:
    base = conditions(Config(), data(), CPU)
    assert base == conditions(Config(), data(), CPU)
    others = [
        conditions(Config(threads=Config().threads + 1), data(), CPU),
        conditions(Config(), replace(data(), fingerprint="g"), CPU),
        conditions(Config(), data(), torch.device("meta")),
        conditions(Config(metric=MetricConfig(name="top5")), data(), CPU),
        conditions(Config(data=DataConfig(validation_images=7)), data(), CPU),
    ]
    assert all(other != base for other in others)


def test_a_graph_is_known_by_its_content(tmp_path: Path) -> None:
    graph = Graph(tmp_path / "model.onnx", "tensorrt", Precision.fp16)
    graph.path.write_bytes(b"one")
    key = graph_key(graph)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "model.onnx").write_bytes(b"one")
    assert graph_key(replace(graph, path=moved / "model.onnx")) == key
    (moved / ENGINE).write_bytes(b"built")
    assert graph_key(replace(graph, path=moved / "model.onnx")) != key
    graph.path.write_bytes(b"two")
    assert graph_key(graph) != key


def test_layers_are_timed_again_only_for_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reuse = Reuse(Cache(tmp_path / "cache"), {})
    times: list[float] = []

    def node_seconds(path: Path, image: np.ndarray, threads: int) -> dict[str, float]:
        times.append(float(len(times)))
        return {"/conv/Conv": times[-1]}

    monkeypatch.setattr(layer_latency, "node_seconds", node_seconds)
    graph, image = tmp_path / "m.onnx", np.zeros(1, np.float32)
    graph.write_bytes(b"first")
    assert [reuse.node_seconds(graph, image, 1)["/conv/Conv"] for _ in range(2)] == [0.0, 0.0]
    assert reuse.node_seconds(graph, image, 2)["/conv/Conv"] == 1.0
    graph.write_bytes(b"second")
    assert reuse.node_seconds(graph, image, 1)["/conv/Conv"] == 2.0
