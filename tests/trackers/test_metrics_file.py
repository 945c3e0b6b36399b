from __future__ import annotations

import json
from pathlib import Path

from compress.config import Config
from compress.trackers.metrics_file import MetricsFile


def test_every_point_is_a_line(tmp_path: Path) -> None:
    tracker = MetricsFile()
    tracker.start(Config(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    tracker.metrics("train", 1, {"loss": 2.5, "learning_rate": 0.1})
    tracker.metrics("controls/random/finetune", 2, {"loss": 1.5})
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"schema_version": 1, "training": "train", "step": 1, "loss": 2.5, "learning_rate": 0.1},
        {"schema_version": 1, "training": "controls/random/finetune", "step": 2, "loss": 1.5},
    ]
