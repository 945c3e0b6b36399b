"""Writes the curves of all trainings to `metrics.jsonl` in the run folder; the report draws them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from compress.config import Config
from compress.trackers.tracker import Tracker

FILE = "metrics.jsonl"
SCHEMA_VERSION = 1


class MetricsFile(Tracker):
    """One JSON object per point: docs/user-guide/run-folder.md describes its keys."""

    def start(self, config: Config, folder: Path) -> None:
        self._path = folder / FILE

    def metrics(self, training: str, step: int, values: Mapping[str, float]) -> None:
        point = {"schema_version": SCHEMA_VERSION, "training": training, "step": step, **values}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")
