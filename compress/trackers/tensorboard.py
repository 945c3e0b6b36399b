"""Writes curves, rows and verdict for TensorBoard, to `tensorboard/` in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from compress.budget import Verdict
from compress.config import Config, dump
from compress.errors import MissingExtra
from compress.ledger import Row
from compress.trackers import values
from compress.trackers.tracker import Tracker

FOLDER = "tensorboard"  # deleted when an interrupted run continues, since all events come again


class TensorBoard(Tracker):
    """Rows are scalars whose step is the number of the stage (0: `load`). Raises MissingExtra without the package."""

    def __init__(self) -> None:
        if find_spec("tensorboard") is None:
            raise MissingExtra("trackers", "tensorboard", "tensorboard")
        self._stages = 0  # begun

    def start(self, config: Config, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER))
        self._writer.add_text("config", _code(dump(config)))

    def stage(self, name: str) -> None:
        self._stages += 1
        self._writer.flush()

    def metrics(self, training: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{training}/{name}", value, step)

    def row(self, row: Row) -> None:
        for name, value in values.of_row(row).items():
            self._writer.add_scalar(name.replace(".", "/", 1), value, self._stages)
        self._writer.flush()

    def finish(self, verdict: Verdict) -> None:
        checks = "\n".join(f"{check.name}: {check.met}" for check in verdict.checks)
        self._writer.add_text("verdict", _code(f"{values.verdict_word(verdict)}\n{checks}"))
        self._writer.close()

    def stop(self, error: BaseException) -> None:
        self._writer.close()


def _code(text: str) -> str:
    """Markdown of a text to be shown as it is."""
    return "".join(f"    {line}\n" for line in text.splitlines())
