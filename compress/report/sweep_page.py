"""`report.html` of a sweep: a trade-off chart and a table of its points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup

from compress.ledger import Row
from compress.report import formatting, page, plots, svg, tables
from compress.report.changes import baseline_row, change_from_baseline
from compress.report.sweep_reader import FAILED, SweepPoint, read_sweep, varying_keys
from compress.report.tables import Cell, Column, Detail
from compress.report.terminal_table import plain_text, text_table


def render_sweep(folder: Path) -> Path:
    """Write `report.html` into the folder of a sweep and return its path. Raises UserError if it has no points."""
    points = read_sweep(folder)
    keys = varying_keys(points)
    return page.write(
        folder / "report.html",
        "sweep.html.j2",
        name="/".join(folder.resolve().parts[-2:]),
        points=points,
        counts=Counter(point.status for point in points),
        chart=_chart(points, keys),
        table_data=tables.build(_columns(points), points),
        conventions=formatting.CONVENTIONS,
    )


def sweep_table(folder: Path) -> str:
    """The points as plain text. Raises UserError if `folder` has no points."""
    points = read_sweep(folder)
    columns = _columns(points)[:-1]
    columns.append(Column("verdict", lambda point: point.state))
    return plain_text(text_table(columns, [[[str(column.cell(point)) for column in columns] for point in points]]))


def _columns(points: Sequence[SweepPoint]) -> list[Column]:
    keys, last_rows = varying_keys(points), [point.last_row for point in points if point.last_row]
    return [
        Column("point", lambda point: point.name),
        *(Column(key, _setting(key), True) for key in keys),
        Column("GFLOPs", _last(lambda row: formatting.giga(row.flops)), True),
        Column("params M", _last(lambda row: formatting.mega(row.params, 3)), True),
        Column(formatting.quality(last_rows), _last(formatting.accuracy_text), True),
        Column("vs. baseline", _change),
        Column("verdict", _state),
    ]


def _last(show: Callable[[Row], str]) -> Callable[[SweepPoint], str]:
    return lambda point: show(point.last_row) if point.last_row else formatting.MISSING


def _setting(key: str) -> Callable[[SweepPoint], str]:
    return lambda point: str(point.config.get(key, formatting.MISSING))


def _change(point: SweepPoint) -> str:
    if point.run is None or point.last_row is None:
        return formatting.MISSING
    change = formatting.change(change_from_baseline(point.run.rows, point.last_row))
    return change if point.run.verdict else f"{change} (after {point.last_row.stage})"


def _state(point: SweepPoint) -> Cell:
    if point.unfinished:
        details = [Detail(point.reason)] if point.reason else []
        return Cell(point.status, details, tables.TONES[False if point.unfinished == FAILED else None])
    return Cell(point.status, tag=tables.TONES[point.met])


def _chart(points: Sequence[SweepPoint], keys: Sequence[str]) -> Markup:
    """Accuracy against FLOPs of the finished points and of the baseline."""
    marks = []
    for point in points:
        row = point.last_row
        if point.run and point.run.verdict and row and row.accuracy:
            label = ", ".join(str(point.config.get(key)) for key in keys) or point.name
            marks.append(plots.point(row, "1" if point.met else "3", label, point.name))
    if not marks:
        return Markup()
    baseline = baseline_row(next(point.run.rows for point in points if point.run and point.run.rows))
    if baseline and baseline.accuracy:
        marks.append(plots.point(baseline, "0", "baseline", "baseline"))
    path = _front([(mark.x, mark.y) for mark in marks])
    quality = formatting.quality([point.last_row for point in points if point.last_row])
    title = f"{quality.capitalize()} against FLOPs of each point"
    return svg.scatter(marks, path, "GFLOPs (2 × MACs)", plots.metric([baseline] if baseline else []), title)


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points with fewer FLOPs (x) than any other of at least their accuracy (y), in order of FLOPs."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front
