"""Reads the points of a sweep from `outputs/sweeps/<recipe>/<date_time>/<point>/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import UserError
from compress.ledger import Row
from compress.report.changes import torch_rows
from compress.report.run_reader import Run, read_config, read_file, read_run


@dataclass(frozen=True)
class SweepPoint:
    """`run` is None if the point failed before its ledger was written or its files are damaged; see `reason`."""

    name: str
    config: dict[str, Any]  # flat: {"prune.ratio": 0.3}
    run: Run | None
    reason: str = ""

    @property
    def met(self) -> bool | None:
        return self.run.verdict.met if self.run and self.run.verdict else None

    @property
    def status(self) -> str:
        """met, missed, undetermined or failed."""
        if self.run is None or self.run.verdict is None:
            return "failed"
        return {True: "met", False: "missed", None: "undetermined"}[self.met]

    @property
    def state(self) -> str:
        """`status`, for a failed point with the reason."""
        return f"failed: {self.reason}" if self.status == "failed" and self.reason else self.status

    @property
    def last_row(self) -> Row | None:
        """The last torch row: the network that the point ended with."""
        return next(reversed(torch_rows(self.run.rows)), None) if self.run else None


@dataclass(frozen=True)
class _Failure:
    """`failed.json` of a point."""

    error: str = ""


def is_sweep(folder: Path) -> bool:
    return not (folder / "ledger.jsonl").exists() and bool(_point_folders(folder))


def read_sweep(folder: Path) -> list[SweepPoint]:
    """All points, including those that failed. Raises UserError if `folder` has no points."""
    folders = _point_folders(folder)
    if not folders:
        raise UserError("sweep", folder, "no points in it: name outputs/sweeps/<recipe>/<date_time>")
    return [_read_point(point) for point in folders]


def varying_keys(points: Sequence[SweepPoint]) -> list[str]:
    """The configuration keys in which the points differ; if there are none, those that say how much to prune."""
    configs = [point.config for point in points if point.config]
    keys = dict.fromkeys(key for config in configs for key in config)
    varying = [key for key in keys if len({str(config.get(key)) for config in configs}) > 1]
    pruning = ("prune.ratio", "budget.flops")
    return varying or [key for key in pruning if any(config.get(key) is not None for config in configs)]


def _point_folders(folder: Path) -> list[Path]:
    files = ("config.yaml", "ledger.jsonl", "log.txt", "failed.json", ".hydra")
    points = [path for path in folder.glob("*") if path.is_dir() and any((path / file).exists() for file in files)]
    return sorted(points, key=lambda path: (len(path.name), path.name) if path.name.isdigit() else (99, path.name))


def _read_point(folder: Path) -> SweepPoint:
    """A damaged point counts as failed, so that the others are still shown."""
    config: dict[str, Any] = {}
    try:
        config = _flat(read_config(folder / "config.yaml")[0])
        error = (read_file(_Failure, folder / "failed.json") or _Failure()).error
        if not (folder / "ledger.jsonl").exists():
            return SweepPoint(folder.name, config, None, error or "it stopped before the first measurement")
        run = read_run(folder)
    except UserError as damage:
        return SweepPoint(folder.name, config, None, str(damage))
    stopped = f"it stopped after {run.rows[-1].stage}" if run.rows else "it has no measurements"
    return SweepPoint(folder.name, config, run, error or stopped)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
