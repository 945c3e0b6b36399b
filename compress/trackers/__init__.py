"""Trackers receive the events of a run. A tracker is one file and one row in `TRACKERS`, or a class of the user's own,
named by its import path: `trackers=[log,pkg.MyTracker]`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from compress import user_code
from compress.budget import Verdict
from compress.config import Config
from compress.errors import UserError, named
from compress.ledger import Row
from compress.trackers.tracker import Tracker

__all__ = ["TRACKERS", "Tracker", "Trackers", "load"]

KEY = "trackers"
TRACKERS = {"log": "compress.trackers.log_lines.LogTracker"}

log = logging.getLogger(__name__)


def load(names: Sequence[str]) -> Trackers:
    """The trackers that a config names. Raises UserError for an unknown name, or an import path of something other than
    a `Tracker`."""
    trackers: list[Tracker] = []
    for name in names:
        if name not in TRACKERS and "." not in name:
            choices = ", ".join(TRACKERS)
            raise UserError(KEY, name, f"choose from {choices}, or set an import path: pkg.module.MyTracker")
        tracker = user_code.load(KEY, TRACKERS.get(name, name), {}, "a subclass of compress.trackers.Tracker")
        if not isinstance(tracker, Tracker):
            raise UserError(KEY, name, f"is a {type(tracker).__name__}, not a compress.trackers.Tracker")
        trackers.append(tracker)
    return Trackers(trackers)


class Trackers:
    """Passes events to every tracker. A tracker that raises is logged and removed; it does not end the run."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = list(trackers)

    def start(self, config: Config, folder: Path) -> None:
        self._call("start", config, folder)

    def stage(self, name: str) -> None:
        self._call("stage", name)

    def row(self, row: Row) -> None:
        self._call("row", row)

    def finish(self, verdict: Verdict) -> None:
        self._call("finish", verdict)

    def _call(self, event: str, *arguments: object) -> None:
        for tracker in list(self._trackers):
            try:
                getattr(tracker, event)(*arguments)
            except Exception as error:  # another project's client, or the user's own code
                log.warning("tracker %s failed and is removed: %s", type(tracker).__name__, named(error))
                self._trackers.remove(tracker)
