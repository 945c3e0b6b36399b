"""Reads the points of a sweep from `outputs/sweeps/<recipe>/<date_time>/<point>/`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress import run_folder
from compress.errors import UserError
from compress.ledger import Row
from compress.report.changes import torch_rows
from compress.report.run_reader import Run, read_config, read_file, read_run

PLAN = "sweep.json"  # the names of the points, written before the first one
FAILURE = "failed.json"  # in the folder of a point that failed
FAILED, RUNNING, STOPPED, WAITING = "failed", "running", "interrupted", "not started"


@dataclass(frozen=True)
class SweepPoint:
    """`run` is None if nothing was measured yet, or the files are damaged. `unfinished` says why there is no verdict:
    FAILED, RUNNING, STOPPED or WAITING; None if there is one. `reason` explains it."""

    name: str  # of its folder
    label: str  # `name` without the overrides that all points have
    config: dict[str, Any]  # flat: {"prune.ratio": 0.3}
    run: Run | None
    reason: str = ""
    unfinished: str | None = None

    @property
    def met(self) -> bool | None:
        return self.run.verdict.met if self.run and self.run.verdict else None

    @property
    def status(self) -> str:
        """met, missed or undetermined; without a verdict `unfinished`."""
        return self.unfinished or {True: "met", False: "missed", None: "undetermined"}[self.met]

    @property
    def state(self) -> str:
        """`status`, with the reason if there is no verdict."""
        return f"{self.unfinished}: {self.reason}" if self.unfinished and self.reason else self.status

    @property
    def command(self) -> str:
        """See `Run.command`; "" without a run."""
        return self.run.command if self.run else ""

    @property
    def flops(self) -> float:
        """FLOPs of `last_row`; infinite if there is none."""
        return self.last_row.flops if self.last_row else math.inf

    @property
    def predicted_ms(self) -> dict[str, float]:
        """Latencies predicted for the deployment device, by `target/precision`."""
        remarks = self.run.verdict.remarks if self.run and self.run.verdict else ()
        return {file: ms for each in remarks if each.kind == "predicted_latency" for file, ms in each.numbers.items()}

    @property
    def last_row(self) -> Row | None:
        """The last torch row: the network that the point ended with."""
        return next(reversed(torch_rows(self.run.rows)), None) if self.run else None


@dataclass(frozen=True)
class Failure:
    """`failed.json` of a point."""

    error: str = ""
    mistake: bool = False  # of the user: exit status 2 in a single run


@dataclass(frozen=True)
class _Plan:
    """`sweep.json`."""

    points: tuple[str, ...] = ()


def is_sweep(folder: Path) -> bool:
    return not (folder / "ledger.jsonl").exists() and bool(_names(folder))


def read_sweep(folder: Path) -> list[SweepPoint]:
    """All points, including those that failed or have not started. Raises UserError if `folder` has no points."""
    names = _names(folder)
    if not names:
        raise UserError("sweep", folder, "no points in it: name outputs/sweeps/<recipe>/<date_time>")
    labels = _labels(names)
    return [_read_point(folder, name, labels[name]) for name in names]


def failures(folder: Path) -> list[Failure]:
    """The failures of a sweep, if all of its points failed; otherwise nothing."""
    points = read_sweep(folder) if is_sweep(folder) else []
    if any(point.status != FAILED for point in points):
        return []
    return [read_file(Failure, folder / point.name / FAILURE) or Failure(point.reason) for point in points]


def varying_keys(points: Sequence[SweepPoint]) -> list[str]:
    """The configuration keys in which the points differ; if there are none, those that say how much to prune."""
    configs = [point.config for point in points if point.config]
    keys = dict.fromkeys(key for config in configs for key in config)
    varying = [key for key in keys if len({str(config.get(key)) for config in configs}) > 1]
    pruning = ("prune.ratio", "budget.flops")
    return varying or [key for key in pruning if any(config.get(key) is not None for config in configs)]


def _names(folder: Path) -> list[str]:
    """Names of the points: those planned, and those that have a folder."""
    plan = read_file(_Plan, folder / PLAN) or _Plan()
    files = ("config.yaml", "ledger.jsonl", "log.txt", FAILURE, ".hydra")
    points = [path.name for path in folder.glob("*") if path.is_dir() and any((path / file).exists() for file in files)]
    return sorted({*plan.points, *points}, key=lambda name: (len(name), name) if name.isdigit() else (99, name))


def _labels(names: Sequence[str]) -> dict[str, str]:
    """{name of a point: its comma-separated parts that not all names have}, or the whole names if that is ambiguous."""
    parts = {name: name.split(",") for name in names}
    common = set.intersection(*(set(each) for each in parts.values()))
    labels = {name: ",".join(part for part in each if part not in common) for name, each in parts.items()}
    return labels if all(labels.values()) and len({*labels.values()}) == len(labels) else {name: name for name in names}


def _read_point(sweep: Path, name: str, label: str) -> SweepPoint:
    """A damaged point counts as failed, so that the others are still shown."""
    folder = sweep / name
    if not folder.exists():
        return SweepPoint(name, label, {}, None, unfinished=WAITING)
    config: dict[str, Any] = {}
    try:
        config = _flat(read_config(folder / "config.yaml")[0])
        run = read_run(folder) if (folder / "ledger.jsonl").exists() else None
        if run and run.verdict:
            return SweepPoint(name, label, config, run)
        unfinished, reason = _unfinished(folder, run)
        return SweepPoint(name, label, config, run, reason, unfinished)
    except UserError as damage:
        return SweepPoint(name, label, config, None, str(damage), FAILED)


def _unfinished(folder: Path, run: Run | None) -> tuple[str, str]:
    """FAILED, RUNNING or STOPPED, and the reason, of a point without a verdict."""
    if (failure := read_file(Failure, folder / FAILURE)) is not None:
        return FAILED, failure.error
    status, stage = run_folder.status(folder), run_folder.read(folder).get("stage")
    if status == run_folder.RUNNING:
        return RUNNING, f"in stage {stage}"
    if status == run_folder.INTERRUPTED:
        return STOPPED, f"it stopped in stage {stage}"
    if run is None:
        return FAILED, "it stopped before the first measurement"
    return FAILED, f"it stopped after {run.rows[-1].stage}" if run.rows else "it has no measurements"


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
