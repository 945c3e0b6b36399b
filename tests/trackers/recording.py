"""A user's trackers: one that keeps all events, one that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.trackers import Tracker

events: list[tuple[str, Any]] = []


class Recording(Tracker):
    def start(self, config: Any, folder: Path) -> None:
        events.append(("start", config.recipe_name))

    def stage(self, name: str) -> None:
        events.append(("stage", name))

    def row(self, row: Any) -> None:
        events.append(("row", row.stage))

    def finish(self, verdict: Any) -> None:
        events.append(("finish", verdict.met))


class Broken(Tracker):
    def row(self, row: Any) -> None:
        raise ConnectionError("no server")
