from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import compress
from tests.trackers.recording import events

SHORT = ["recipe=digits", "stages=[train]", "targets=[]", "train.images=320", "data.validation_images=50", "threads=1"]
SHORT += ["budget.flops=null", "budget.max_accuracy_drop=null", "force=true"]


def curves(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_cached_stage_and_a_continued_run_have_their_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    events.clear()
    own = "tests.trackers.recording"
    config = compress.compose([*SHORT, f"trackers=[{own}.Interrupting,{own}.Recording]"])
    with pytest.raises(KeyboardInterrupt):
        compress.run(config, tmp_path / "first")  # at step 4
    assert len(curves(tmp_path / "first")) == 4 and events[-1] == ("stop", "KeyboardInterrupt")
    compress.run(config, tmp_path / "first")  # continues
    compress.run(config, tmp_path / "second")  # from the cache
    first, second = curves(tmp_path / "first"), curves(tmp_path / "second")
    assert [point["step"] for point in first] == list(range(1, 11)) and second == first


def test_a_tracker_learns_of_every_event_and_a_broken_one_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    events.clear()
    own = "tests.trackers.recording"
    config = compress.compose([*SHORT, f"trackers=[{own}.Broken,{own}.Recording]"])
    result = compress.run(config, tmp_path / "run")
    points = curves(tmp_path / "run")
    assert [(point["training"], point["step"]) for point in points] == [("train", step) for step in range(1, 11)]
    assert points[0].keys() == {"schema_version", "training", "step", "loss", "learning_rate", "images_per_second"}
    steps = [("train", step) for step in range(1, 11)]  # 320 images in batches of 32
    artifacts = (
        "config.yaml",
        "machine.json",
        "ledger.jsonl",
        "metrics.jsonl",
        "verdict.json",
        "report.html",
        "pruned",
    )
    assert events == [
        ("start", "digits"), ("row", "load"), ("stage", "train"), *steps, ("row", "train"),
        *(("artifact", name) for name in artifacts), ("finish", True),
    ]  # fmt: skip
    assert (
        len(result.rows) == 2
        and caplog.text.count("tracker Broken failed and is removed; the run and metrics.jsonl go on: ConnectionError")
        == 1
    )
