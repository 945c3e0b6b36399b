from __future__ import annotations

from pathlib import Path

import pytest

import compress
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
