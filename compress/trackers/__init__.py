"""Trackers receive the events of a run. A tracker is one file and one row in `TRACKERS`, or a class of the user's own,
named by its import path: `trackers=[log,pkg.MyTracker]`. `metrics.jsonl` is written in every run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from compress import user_code
from compress.budget import Verdict
from compress.config import Config
from compress.errors import UserError, named
from compress.ledger import Row
from compress.trackers.metrics_file import MetricsFile
from compress.trackers.tracker import Tracker

__all__ = ["TRACKERS", "Tracker", "Trackers", "load"]

KEY = "trackers"
TRACKERS = {
    "log": "compress.trackers.log_lines.LogTracker",
    "mlflow": "compress.trackers.mlflow.MLflow",
    "tensorboard": "compress.trackers.tensorboard.TensorBoard",
}
ARTIFACTS = (  # files and folders of the run folder that are passed on at the end
    *("config.yaml", "machine.json", "ledger.jsonl", "controls.jsonl", "metrics.jsonl", "verdict.json", "report.html"),
    *("pruning.json", "reconstruction.json", "quantization.json", "pruned", "artifacts"),
)

log = logging.getLogger(__name__)


def load(names: Sequence[str]) -> Trackers:
    """The trackers that a config names, after the one that writes `metrics.jsonl`.

    Raises:
        UserError: a name is unknown, or an import path is that of something other than a `Tracker`.
        MissingExtra: a tracker needs a package that is not installed.
    """
    trackers: list[Tracker] = [MetricsFile()]
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
    """Passes events to every tracker. A tracker that raises is logged and removed; it does not end the run. An
    exception in its `with` block stops the run that has been started."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = list(trackers)
        self._folder: Path | None = None  # of the run in progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and self._folder is not None:
            self._call("stop", error)

    def start(self, config: Config, folder: Path) -> None:
        self._folder = folder
        self._call("start", config, folder)

    def stage(self, name: str) -> None:
        self._call("stage", name)

    def metrics(self, training: str, step: int, values: Mapping[str, float]) -> None:
        self._call("metrics", training, step, values)

    def row(self, row: Row) -> None:
        self._call("row", row)

    def finish(self, verdict: Verdict) -> None:
        """Passes on the ARTIFACTS that the run folder has, then the verdict."""
        assert self._folder is not None
        for path in (self._folder / name for name in ARTIFACTS):
            if path.exists():
                self._call("artifact", path)
        self._call("finish", verdict)
        self._folder = None

    def _call(self, event: str, *arguments: object) -> None:
        for tracker in list(self._trackers):
            try:
                getattr(tracker, event)(*arguments)
            except Exception as error:  # another project's client, or the user's own code
                message = "tracker %s failed and is removed; the run and metrics.jsonl go on: %s"
                log.warning(message, type(tracker).__name__, named(error))
                self._trackers.remove(tracker)
