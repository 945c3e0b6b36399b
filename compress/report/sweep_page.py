"""`report.html` of a sweep: the point to choose, the trade-offs, and a table of all points."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compress.budget.selection import median
from compress.ledger import Row
from compress.report import answer, formatting, page, sweep_charts, sweep_csv, tables
from compress.report.changes import change_from_baseline
from compress.report.sweep_choice import Choice, File, choose, files, flops_text
from compress.report.sweep_reader import FAILED, SweepPoint, read_sweep, varying_keys
from compress.report.tables import Cell, Column, Detail
from compress.report.terminal_table import plain_text, text_table

FILES = "files to deploy"


def render_sweep(folder: Path) -> Path:
    """Write `report.html` and `sweep.csv` into the folder of a sweep and return the path of the report. Raises
    UserError if the sweep has no points."""
    points = read_sweep(folder)
    keys = varying_keys(points)
    choice = choose(points, keys)
    sweep_csv.write(folder, points, keys, choice)
    return page.write(
        folder / "report.html",
        "sweep.html.j2",
        name="/".join(folder.resolve().parts[-2:]),
        points=points,
        counts=Counter(point.status for point in points),
        choice=choice,
        chosen=None if choice is None else _chosen(choice, keys),
        finished=any(point.unfinished is None for point in points),
        drawn=sweep_charts.charts(points, keys, choice),
        table_data=tables.build(_columns(points, choice), points),
        commands=[(point.label, point.command) for point in points if point.command],
        conventions=formatting.CONVENTIONS,
    )


def sweep_table(folder: Path) -> str:
    """The points as plain text, and the one to choose. Raises UserError if `folder` has no points."""
    points = read_sweep(folder)
    choice = choose(points, varying_keys(points))
    columns = [
        Column("point", lambda point: point.label),
        *_columns(points, choice)[1:-2],
        Column("file to deploy", lambda point: "; ".join(_file(file) for file in files(point) if file.row.target)),
        Column("verdict", lambda point: point.state),
    ]
    table = plain_text(text_table(columns, [[[str(column.cell(point)) for column in columns] for point in points]]))
    if choice is None:
        return table
    lines = (f"choose {choice.file.point.label}: {choice.reason}", choice.file.point.command)
    return "\n".join([table, "", *(line for line in lines if line)])


def _chosen(choice: Choice, keys: Sequence[str]) -> dict[str, Any]:
    """What the page shows of the chosen point: its settings, figures and command."""
    point, row = choice.file.point, choice.file.row
    settings = ",".join(f"{key}={point.config.get(key)}" for key in keys)
    figures = answer.figures(point.run.rows, row) if point.run else []
    change = change_from_baseline(point.run.rows, row) if point.run else None
    ratio = f"×{change.flops:.2f} of the baseline" if change and change.flops else ""
    value, unit = flops_text(row.flops).split()
    figures = [answer.Figure(unit, value, ratio), *figures]
    if choice.file.predicted_ms is not None and point.run:
        figures.append(answer.Figure("predicted, ms", f"{choice.file.predicted_ms:.3g}", f"on {point.run.device}"))
    return {"settings": "" if settings == point.label else settings, "figures": figures, "command": point.command}


def _columns(points: Sequence[SweepPoint], choice: Choice | None) -> list[Column]:
    keys, last_rows = varying_keys(points), [point.last_row for point in points if point.last_row]
    unit, scale = formatting.flops_unit(max((row.flops for row in last_rows), default=math.inf))
    return [
        Column("point", lambda point: _name(point, choice)),
        *(Column(key, _setting(key), True) for key in keys),
        Column(unit, _last(lambda row: formatting.decimal(row.flops, 3, scale)), True),
        Column("params M", _last(lambda row: formatting.mega(row.params, 3)), True),
        Column(formatting.quality(last_rows), _last(formatting.accuracy_text), True),
        Column("vs. baseline", _change),
        Column(FILES, _files),
        Column("verdict", _state),
    ]


def _name(point: SweepPoint, choice: Choice | None) -> Cell:
    chosen = choice is not None and choice.file.point is point
    return Cell(point.label, [Detail("the point to choose", tables.TONES[True])] if chosen else [])


def _files(point: SweepPoint) -> Cell:
    lines = [Detail(_file(file)) for file in files(point) if file.row.target]
    return Cell("" if lines else formatting.MISSING, lines)


def _file(file: File) -> str:
    """`onnxruntime int8: 0.6397, 2.31 ms on host ×0.40, 1.93 MB, 12.1 ms predicted on raspberry_pi_5`."""
    row, run = file.row, file.point.run
    parts = [formatting.accuracy(row)[0]]
    if median(row) is not None and run:
        ratio = formatting.latency_ratio(change_from_baseline(run.rows, row))
        parts.append(" ".join(filter(None, (f"{formatting.latency(row)} ms on {formatting.device(row)}", ratio))))
    if row.size_bytes is not None:
        parts.append(f"{formatting.mega(row.size_bytes)} MB")
    if file.predicted_ms is not None and run:
        parts.append(f"{file.predicted_ms:.3g} ms predicted on {run.device}")
    return f"{file.name}: {', '.join(parts)}"


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
