"""A sweep's points in a table and a trade-off chart, from `outputs/sweeps/<recipe>/<date_time>/<point>/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from compress import atomic
from compress.errors import UserError
from compress.report import formatting, page, svg
from compress.report.chain import change_from_start, number, part, start_of, torch_rows
from compress.report.page import Cell, Table
from compress.report.run import Row, Run, read_config, read_object, read_run

ALWAYS = ("prune.ratio", "budget.flops")


@dataclass(frozen=True)
class SweepPoint:
    """`run` is None where the point failed before its ledger began, or its files are damaged (`why`)."""

    name: str
    config: dict[str, Any]  # flat: {"prune.ratio": 0.3}
    run: Run | None
    why: str = ""

    @property
    def met(self) -> bool | None:
        return self.run.verdict.get("met") if self.run and self.run.verdict else None

    @property
    def state(self) -> str:
        if self.run is None or self.run.verdict is None:
            return "failed" + (f": {self.why}" if self.why else "")
        return {True: "met", False: "missed", None: "undetermined"}[self.met]


def is_sweep(folder: Path) -> bool:
    return not (folder / "ledger.jsonl").exists() and bool(_point_folders(folder))


def render_sweep(folder: Path) -> Path:
    """Write `report.html` into the sweep's folder and return its path.

    Raises:
        UserError: the folder holds no points.
    """
    points = read_sweep(folder)
    keys = _varying(points)
    name = "/".join(folder.resolve().parts[-2:])
    states = [point.state.partition(":")[0] for point in points]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    head = (*_head(keys)[:-1], "")
    rows = [_row(point, keys) for point in points]
    html = page.render(
        "sweep.html",
        title=f"{name} – compress sweep",
        name=name,
        counts=f"{len(points)} points: {counts}",
        chart=Markup(_chart(points, keys)),  # ours, its texts are escaped by `svg`
        points=Table(head, [rows], frozenset(range(1, len(head) - 2)), note=formatting.CONVENTIONS),
    )
    return atomic.write(folder / "report.html", html)


def sweep_table(folder: Path) -> str:
    """The same points as plain text."""
    points = read_sweep(folder)
    keys = _varying(points)
    lines = [_head(keys), *([*_cells(point, keys), point.state] for point in points)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def read_sweep(folder: Path) -> list[SweepPoint]:
    """Every point, also those that failed.

    Raises:
        UserError: the folder holds no points.
    """
    folders = _point_folders(folder)
    if not folders:
        raise UserError("sweep", folder, "no points there: use outputs/sweeps/<recipe>/<date_time>")
    return [_read_point(each) for each in folders]


def _point_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    marks = ("config.yaml", "ledger.jsonl", "log.txt", "failed.json", ".hydra")
    found = [each for each in folder.iterdir() if each.is_dir() and any((each / mark).exists() for mark in marks)]
    return sorted(found, key=lambda each: (len(each.name), each.name) if each.name.isdigit() else (99, each.name))


def _read_point(folder: Path) -> SweepPoint:
    """A damaged point is a failed point: it must not hide the others."""
    config: dict[str, Any] = {}
    try:
        config = _flat(read_config(folder / "config.yaml")[0])
        error = str((read_object(folder / "failed.json") or {}).get("error") or "")
        if not (folder / "ledger.jsonl").exists():
            return SweepPoint(folder.name, config, None, error or "it stopped before the model was measured")
        run = read_run(folder)
    except UserError as damage:
        return SweepPoint(folder.name, config, None, str(damage))
    stages = [row["stage"] for row in run.rows]
    stopped = f"it stopped after {stages[-1]}" if stages else "nothing was measured"
    return SweepPoint(folder.name, config, run, error or stopped)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _varying(points: Sequence[SweepPoint]) -> list[str]:
    """The keys the sweep turned; where none differs (one point), those that say how much to prune."""
    known = [point.config for point in points if point.config]
    keys = dict.fromkeys(key for config in known for key in config)
    varying = [key for key in keys if len({str(config.get(key)) for config in known}) > 1]
    return varying or [key for key in ALWAYS if any(config.get(key) is not None for config in known)]


def _last(point: SweepPoint) -> Row | None:
    """The network the point ended with, as its last torch row has it."""
    rows = torch_rows(point.run.rows) if point.run else []
    return rows[-1] if rows else None


def _head(keys: Sequence[str]) -> list[str]:
    return ["point", *keys, "GFLOPs", "params M", "accuracy", "from start", "verdict"]


def _cells(point: SweepPoint, keys: Sequence[str]) -> list[str]:
    row, values = _last(point), [str(point.config.get(key, formatting.NONE)) for key in keys]
    if row is None or point.run is None:
        return [point.name, *values, *[formatting.NONE] * 4]
    numbers = [formatting.giga(row.get("flops")), formatting.mega(row.get("params"), 3), formatting.accuracy(row)]
    change = formatting.change(change_from_start(point.run.rows, row))
    stage = "" if point.run.verdict else f" (after {row['stage']})"
    return [point.name, *values, *numbers, change + stage]


def _row(point: SweepPoint, keys: Sequence[str]) -> list[str | Cell]:
    word, _, why = point.state.partition(": ")
    met = False if word == "failed" else point.met
    return [*_cells(point, keys), Cell("", ((why, ""),) if why else (), tag=word, tone=page.tone(met))]


def _chart(points: Sequence[SweepPoint], keys: Sequence[str]) -> str:
    marks = [mark for point in points if (mark := _mark(point, keys)) is not None]
    if not marks:
        return ""
    first = next(point.run for point in points if point.run and point.run.rows)
    start = start_of(first.rows)
    if start is not None and (value := number(part(start, "accuracy").get("value"))) is not None:
        low, high = formatting.bounds(start) or (None, None)
        x = (number(start.get("flops")) or 0.0) / 1e9
        marks.append(svg.Point(x, value, "0", "circle", "start", f"start: {formatting.accuracy(start)}", low, high))
    path = sorted((mark.x, mark.y) for mark in marks)
    metric = str(part(start, "accuracy").get("metric") or "accuracy") if start else "accuracy"
    return svg.scatter(marks, path, "GFLOPs (2 × MACs)", metric, "Accuracy against FLOPs of each point")


def _mark(point: SweepPoint, keys: Sequence[str]) -> svg.Point | None:
    row = _last(point) if point.run and point.run.verdict else None
    value = number(part(row, "accuracy").get("value")) if row else None
    flops = number(row.get("flops")) if row else None
    if row is None or value is None or flops is None:
        return None
    label = ", ".join(str(point.config.get(key)) for key in keys) or point.name
    low, high = formatting.bounds(row) or (None, None)
    hollow = part(row, "accuracy").get("obtained") != "measured"
    colour = "1" if point.met else "3"
    return svg.Point(
        flops / 1e9, value, colour, "circle", label, f"{point.name}: {formatting.accuracy(row)}", low, high, hollow
    )
