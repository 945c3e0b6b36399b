"""A user's trackers: one that keeps all events, one that fails, one that interrupts the first training."""

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

    def metrics(self, training: str, step: int, values: Any) -> None:
        events.append((training, step))

    def row(self, row: Any) -> None:
        events.append(("row", row.stage))

    def artifact(self, path: Path) -> None:
        events.append(("artifact", path.name))

    def finish(self, verdict: Any) -> None:
        events.append(("finish", verdict.met))

    def stop(self, error: BaseException) -> None:
        events.append(("stop", type(error).__name__))


class Broken(Tracker):
    def row(self, row: Any) -> None:
        raise ConnectionError("no server")


class Interrupting(Tracker):
    """Interrupts at step 4, unless it did so before in this run folder."""

    def start(self, config: Any, folder: Path) -> None:
        self.mark = folder.parent / "interrupted"

    def metrics(self, training: str, step: int, values: Any) -> None:
        if step == 4 and not self.mark.exists():
            self.mark.touch()
            raise KeyboardInterrupt
