"""The events of a run."""

from __future__ import annotations

from pathlib import Path

from compress.budget import Verdict
from compress.config import Config
from compress.ledger import Row


class Tracker:
    """Base class of trackers. Its methods do nothing; a run calls them in their order here."""

    def start(self, config: Config, folder: Path) -> None:
        """A run starts in the run folder `folder`."""

    def stage(self, name: str) -> None:
        """A stage starts."""

    def row(self, row: Row) -> None:
        """A product was measured: a row of the ledger."""

    def finish(self, verdict: Verdict) -> None:
        """The run has its verdict. A run that is interrupted or fails has none."""
