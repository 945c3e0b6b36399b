"""`sweep.csv`: one line per point and product (torch network or file), with what a spreadsheet needs to draw its own
charts. Numbers are not rounded; what is unknown is empty."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress import atomic
from compress.ledger import Row
from compress.report import formatting
from compress.report.changes import baseline_row, change_from_baseline, final_rows
from compress.report.sweep_choice import Choice
from compress.report.sweep_reader import SweepPoint

NAME = "sweep.csv"


def write(folder: Path, points: Sequence[SweepPoint], keys: Sequence[str], choice: Choice | None) -> Path:
    """Writes `sweep.csv` into the folder of a sweep and returns its path.

    Args:
        keys: in which the points differ; a column each.
    """
    lines = [line for point in points for line in _lines(point, keys, choice)]
    start = next((point for point in points if point.run and baseline_row(point.run.rows)), None)
    if start and start.run and (row := baseline_row(start.run.rows)):
        lines.append({"point": "baseline", **_figures(start, row)})
    columns = dict.fromkeys(name for line in lines for name in line)
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    return atomic.write(folder / NAME, text.getvalue())


def _lines(point: SweepPoint, keys: Sequence[str], choice: Choice | None) -> list[dict[str, Any]]:
    """A line without figures if the point has no measurements."""
    chosen = choice is not None and choice.file.point is point
    settings = {key: point.config.get(key) for key in keys}
    head = {"point": point.name, "status": point.status, "reason": point.reason, "chosen": int(chosen), **settings}
    products = [_figures(point, row) for row in final_rows(point.run.rows)] if point.run else []
    return [{**head, **product, "command": point.command} for product in products or [{}]]


def _figures(point: SweepPoint, row: Row) -> dict[str, Any]:
    score, timing = row.accuracy, row.latency_ms
    change = change_from_baseline(point.run.rows, row) if point.run else None
    low, high = (score and score.ci95) or (None, None)
    predicted = point.predicted_ms.get(f"{row.target}/{row.precision}")
    return {
        "stage": row.stage,
        "runtime": row.target_name,
        "precision": row.precision,
        "imgsz": row.imgsz,
        "flops": row.flops,
        "bit_operations": row.bit_operations,
        "params": row.params,
        "size_bytes": row.size_bytes,
        "metric": score and score.metric,
        "accuracy": score and score.value,
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_change": change and change.accuracy,
        "images": score and score.images,
        "accuracy_obtained": score and score.obtained,
        "latency_ms": timing and timing.median,
        "latency_low_ms": timing and timing.low,
        "latency_high_ms": timing and timing.high,
        "latency_p95_ms": timing and timing.p95,
        "latency_ratio": change and change.latency,
        "latency_setup": "" if timing is None or timing.median is None else formatting.timing_setup(row),
        "latency_device": timing and timing.device,
        "contended": timing and timing.contended,
        "predicted_ms": predicted,
        "predicted_device": point.run.device if point.run and predicted is not None else None,
        "energy_mj": row.energy_mj and row.energy_mj.value,
    }
