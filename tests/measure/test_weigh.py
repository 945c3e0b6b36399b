"""Files are judged once a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compress import targets
from compress.config import ExportConfig
from compress.measure import weigh
from tests.measure.test_contracts import Classifier
from tests.stages.test_quantize import data


def test_the_same_bytes_are_not_judged_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = Classifier()
    graph = targets.get("onnxruntime").convert(model, tmp_path / "a", ExportConfig())
    evaluated = []
    accuracy = weigh._accuracy
    monkeypatch.setattr(weigh, "_accuracy", lambda *given: evaluated.append(given) or accuracy(*given))
    monkeypatch.setattr(weigh, "TIMING_SECONDS", 0.01)
    judged: dict[str, Any] = {}
    costs = weigh.Costs.of(model)

    def row(graph: Any) -> Any:
        return weigh.weigh_graph("export", graph, model, costs, data(4), threads=1, cached=False, judged=judged)

    first = row(graph)
    again = row(targets.get("onnxruntime").convert(model, tmp_path / "b", ExportConfig()))
    assert len(evaluated) == 1 and again.accuracy == first.accuracy and again.latency_ms["median"] > 0
    other: Any = Classifier()
    other.net[0].weight.data *= 2
    row(targets.get("onnxruntime").convert(other, tmp_path / "c", ExportConfig()))
    assert len(evaluated) == 2
