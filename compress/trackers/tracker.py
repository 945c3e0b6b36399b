"""The events of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compress.budget import Verdict
from compress.config import Config
from compress.ledger import Row


class Tracker:
    """Base class of trackers. Its methods do nothing. A run calls `start` first, then the others as the events occur,
    and either `finish` or `stop` last. All calls come from one process: rank 0, if several train."""

    def start(self, config: Config, folder: Path) -> None:
        """A run starts, or an interrupted one continues, in the run folder `folder`."""

    def stage(self, name: str) -> None:
        """A stage starts."""

    def metrics(self, training: str, step: int, values: Mapping[str, float]) -> None:
        """A training has done `step` steps: a point of its curve. `training`: `train`, `finetune`, `prune/round-1`, …,
        `controls/random/finetune`, …; `values`: see docs/user-guide/run-folder.md. At most 200 points per training,
        each once, in order. A training that resumes, or whose result is cached, reports its previous points again."""

    def row(self, row: Row) -> None:
        """A product was measured: a row of the ledger."""

    def artifact(self, path: Path) -> None:
        """A file or folder of the run folder is complete."""

    def finish(self, verdict: Verdict) -> None:
        """The run has its verdict and its report."""

    def stop(self, error: BaseException) -> None:
        """The run ends without a verdict: `error` is KeyboardInterrupt if it was interrupted."""
