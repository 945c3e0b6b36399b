"""The curve of a training: its losses, learning rate and speed, as JSON lines beside the state of the training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compress import atomic

FILE = "metrics.jsonl"
POINTS = 200  # of a curve, at most

Values = Mapping[str, float]
Report = Callable[[int, Values], None]  # called with the number of steps done and the values of a point


class Curve:
    """Points of one training, appended to `file` and passed to `report`. A training that resumes keeps the points up to
    its step, so that each step occurs once. A copy in another process does nothing."""

    def __init__(self, file: Path | None = None, report: Report | None = None) -> None:
        self._file, self._report = file, report
        self._last = (0, time.monotonic())  # step and time of the last point

    def __getstate__(self) -> dict[str, Any]:
        return {"_file": None, "_report": None, "_last": (0, 0.0)}

    def resume(self, step: int) -> None:
        """Removes the points after `step` (0: all), and reports those that stay."""
        if self._file is not None:
            kept = [(number, values) for number, values in read(self._file) if number <= step]
            atomic.write(self._file, "".join(_line(*point) for point in kept))
            for point in kept:
                self.report(*point)
        self._last = (step, time.monotonic())

    def write(self, step: int, values: Values, batch: int) -> Values:
        """Appends a point to the file. Returns it, with `images_per_second` since the last point; `batch`: images per
        step."""
        last, then = self._last
        self._last = (step, time.monotonic())
        seconds = max(self._last[1] - then, 1e-9)
        values = {**values, "images_per_second": (step - last) * batch / seconds}
        values = {name: float(f"{value:.6g}") for name, value in values.items()}
        if self._file is not None:
            with open(self._file, "a", encoding="utf-8") as file:
                file.write(_line(step, values))
        return values

    def report(self, step: int, values: Values) -> None:
        """Passes on a point."""
        if self._report is not None:
            self._report(step, values)


def due(step: int, steps: int) -> bool:
    """Whether a training of `steps` steps has a point after `step` (from 1): at equal distances, and at the end."""
    return step == steps or step % -(-steps // POINTS) == 0


def read(file: Path) -> list[tuple[int, dict[str, float]]]:
    """The points in a file, as (step, values); none if there is no file. A last line that was cut off when its process
    was killed is omitted."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    points = [json.loads(line) for line in lines if line.endswith("\n")]
    return [(point.pop("step"), point) for point in points]


def _line(step: int, values: Values) -> str:
    return json.dumps({"step": step, **values}) + "\n"
