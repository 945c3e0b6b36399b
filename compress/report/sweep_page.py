"""`report.html` of a sweep: a trade-off chart and a table of its points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from markupsafe import Markup

from compress.report import formatting, page, plots, svg, tables
from compress.report.changes import baseline_row, change_from_baseline
from compress.report.run_reader import number, part
from compress.report.sweep_reader import SweepPoint, read_sweep, varying_keys
from compress.report.tables import Cell, Column, Detail


def render_sweep(folder: Path) -> Path:
    """Write `report.html` into the folder of a sweep and return its path.

    Raises:
        UserError: `folder` has no points.
    """
    points = read_sweep(folder)
    keys = varying_keys(points)
    return page.write(
        folder / "report.html",
        "sweep.html.j2",
        name="/".join(folder.resolve().parts[-2:]),
        points=points,
        counts=Counter(point.status for point in points),
        chart=_chart(points, keys),
        table_data=tables.build(_columns(keys), points),
        conventions=formatting.CONVENTIONS,
    )


def sweep_table(folder: Path) -> str:
    """The points as plain text.

    Raises:
        UserError: `folder` has no points.
    """
    points = read_sweep(folder)
    columns = _columns(varying_keys(points))[:-1]
    lines = [[*(column.name for column in columns), "verdict"]]
    lines += [[*(str(column.cell(point)) for column in columns), point.state] for point in points]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _columns(keys: Sequence[str]) -> list[Column]:
    return [
        Column("point", lambda point: point.name),
        *(Column(key, partial(_setting, key), True) for key in keys),
        Column("GFLOPs", lambda p: formatting.giga((p.last_row or {}).get("flops")), True),
        Column("params M", lambda p: formatting.mega((p.last_row or {}).get("params"), 3), True),
        Column("accuracy", lambda p: formatting.accuracy(p.last_row or {}), True),
        Column("vs. baseline", _change),
        Column("verdict", _state),
    ]


def _setting(key: str, point: SweepPoint) -> str:
    return str(point.config.get(key, formatting.MISSING))


def _change(point: SweepPoint) -> str:
    if point.run is None or point.last_row is None:
        return formatting.MISSING
    change = formatting.change(change_from_baseline(point.run.rows, point.last_row))
    return change if point.run.verdict else f"{change} (after {point.last_row['stage']})"


def _state(point: SweepPoint) -> Cell:
    tone = tables.TONES[False if point.status == "failed" else point.met]
    return Cell(point.status, [Detail(point.reason)] if point.status == "failed" else [], tone)


def _chart(points: Sequence[SweepPoint], keys: Sequence[str]) -> Markup:
    """Accuracy against FLOPs of the finished points and of the baseline."""
    marks = [mark for point in points if (mark := _mark(point, keys)) is not None]
    if not marks:
        return Markup()
    baseline = baseline_row(next(point.run.rows for point in points if point.run and point.run.rows)) or {}
    if number(part(baseline, "accuracy").get("value")) is not None:
        x = (number(baseline.get("flops")) or 0.0) / 1e9
        marks.append(plots.point(baseline, x, "0", "baseline", f"baseline: {formatting.accuracy(baseline)}"))
    path = sorted((mark.x, mark.y) for mark in marks)
    title = "Accuracy against FLOPs of each point"
    return svg.scatter(marks, path, "GFLOPs (2 × MACs)", plots.metric([baseline]), title)


def _mark(point: SweepPoint, keys: Sequence[str]) -> svg.Point | None:
    row = point.last_row if point.run and point.run.verdict else None
    if row is None or number(part(row, "accuracy").get("value")) is None or number(row.get("flops")) is None:
        return None
    label = ", ".join(str(point.config.get(key)) for key in keys) or point.name
    tooltip = f"{point.name}: {formatting.accuracy(row)}"
    return plots.point(row, float(row["flops"]) / 1e9, "1" if point.met else "3", label, tooltip)
