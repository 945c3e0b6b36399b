from __future__ import annotations

from pathlib import Path

import pytest

import compress
from compress.errors import UserError
from compress.trackers import load
from compress.trackers.log_lines import LogTracker
from tests.trackers.recording import events

SHORT = ["recipe=digits", "stages=[train]", "targets=[]", "train.images=320", "data.validation_images=50", "threads=1"]
SHORT += ["budget.flops=null", "budget.max_accuracy_drop=null", "force=true"]


def test_a_tracker_learns_of_every_event_and_a_broken_one_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    events.clear()
    own = "tests.trackers.recording"
    config = compress.compose([*SHORT, f"trackers=[{own}.Broken,{own}.Recording]"])
    result = compress.run(config, tmp_path / "run")
    assert events == [("start", "digits"), ("row", "load"), ("stage", "train"), ("row", "train"), ("finish", True)]
    assert len(result.rows) == 2 and caplog.text.count("tracker Broken failed and is removed: ConnectionError") == 1


def test_the_log_has_a_line_per_measurement(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from tests.budget.test_verdict import row

    caplog.set_level("INFO")
    LogTracker().row(row("export", "openvino", "int8", ms=1.25))
    LogTracker().row(row("prune", accuracy=None))
    assert "measured export openvino int8: 1M FLOPs, top1 0.9000, 1.25 ms" in caplog.text
    assert "measured prune torch fp32: 1M FLOPs" in caplog.text


@pytest.mark.parametrize("name", ["wandb", "nowhere.Tracker", "tests.trackers.recording.events", "os.getcwd"])
def test_what_is_no_tracker_is_refused(name: str) -> None:
    with pytest.raises(UserError) as caught:
        load([name])
    assert (caught.value.key, caught.value.value) == ("trackers", name)
