from __future__ import annotations

from dataclasses import replace

import pytest

from compress.ledger import Row
from compress.trackers.log_lines import LogTracker
from tests.budget.conftest import row


def said(result: Row, caplog: pytest.LogCaptureFixture) -> str:
    caplog.set_level("INFO")
    LogTracker().row(result)
    return caplog.messages[-1]


def test_the_log_has_a_line_per_measurement(caplog: pytest.LogCaptureFixture) -> None:
    line = said(row("export", "openvino", "int8", ms=1.25), caplog)
    assert line == "measured export openvino int8: 1M FLOPs, top1 0.9000, 1.25 ms"
    assert said(row("prune", accuracy=None), caplog) == "measured prune torch fp32: 1M FLOPs"
    assert len(caplog.messages) == 2


def test_a_file_that_is_not_timed_has_no_time_on_its_line(caplog: pytest.LogCaptureFixture) -> None:
    line = said(row("export", "tensorrt", "int8", ms=None, obtained="not_run"), caplog)
    assert line == "measured export tensorrt int8: 1M FLOPs, top1 0.9000"


def test_an_accuracy_of_zero_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert said(row(accuracy=0.0), caplog) == "measured load torch fp32: 1M FLOPs, top1 0.0000"


def test_a_model_file_that_another_runtime_runs_is_not_called_torch(caplog: pytest.LogCaptureFixture) -> None:
    timed = row("load", "onnxruntime", ms=2.0)
    assert timed.latency_ms is not None
    given = replace(timed, target=None, latency_ms=replace(timed.latency_ms, runtime="onnxruntime 1.22"))
    assert said(given, caplog).startswith("measured load as given fp32: ")
