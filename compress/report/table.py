"""The table of a run for the terminal: one line per weighing, and the verdict under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from compress.report import formatting
from compress.report.chain import change_from_before, change_from_start, part
from compress.report.run import Row, read_run

PLAIN_WIDTH = 400  # a file or a pipe has no edge: nothing is wrapped or left out there


@dataclass(frozen=True)
class Column:
    name: str
    cell: Callable[[Sequence[Row], Row], str]
    right: bool = False
    drop: int = 0  # 0: always shown; else the higher, the sooner a narrow terminal loses it


COLUMNS = (
    Column("stage", lambda rows, row: row["stage"] + (" (cached)" if row.get("cached") else "")),
    Column("target", lambda rows, row: formatting.target_name(row)),
    Column("precision", lambda rows, row: str(row.get("precision") or formatting.NONE)),
    Column("GFLOPs", lambda rows, row: formatting.giga(row.get("flops")), True),
    Column("at 640 px", lambda rows, row: formatting.giga(row.get("flops_at_640")), True, 5),
    Column("GMACs", lambda rows, row: formatting.giga(row.get("macs")), True, 6),
    Column("params M", lambda rows, row: formatting.mega(row.get("params"), 3), True, 4),
    Column("size MB", lambda rows, row: formatting.mega(row.get("size_bytes")), True, 3),
    Column("accuracy", lambda rows, row: formatting.accuracy(row), True),
    Column("latency ms", lambda rows, row: formatting.latency(row), True),
    Column("p95", lambda rows, row: formatting.p95(row), True, 7),
    Column("timed in", lambda rows, row: formatting.timed_as(row)),
    Column("INT8 MACs", lambda rows, row: formatting.int8_share(row), True, 2),
    Column("change from row before", lambda rows, row: formatting.change(change_from_before(rows, row)), False, 5),
    Column("change from start", lambda rows, row: formatting.change(change_from_start(rows, row)), False, 1),
)


def table(rows: Sequence[Row]) -> str:
    """The whole table as plain text without escape codes, every column."""
    console = Console(file=StringIO(), width=PLAIN_WIDTH, no_color=True, force_terminal=False)
    console.print(_table(rows, COLUMNS, box.SIMPLE_HEAD))
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().strip("\n").split("\n"))


def print_table(run: Path, console: Console | None = None) -> None:
    """Print the run's table, then its checks and remarks.

    A terminal gets the columns that fit it and is told which are left out; a pipe or a file gets all of them.

    Raises:
        UserError: no such run, or a damaged file.
    """
    found = read_run(run)
    console = console or Console()
    if console.is_terminal:
        columns, left_out = _fitting(found.rows, console)
        console.print(_table(found.rows, columns, box.SIMPLE_HEAD))
        if left_out:
            console.print(f"Left out here, in report.html: {', '.join(left_out)}.", style="dim")
    else:
        console.print(table(found.rows), soft_wrap=True, markup=False, highlight=False)
    for line, style in _closing(found.verdict, _metrics(found.rows)):
        console.print(Text(line, style=style), soft_wrap=True)
    for note in found.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)


def _fitting(rows: Sequence[Row], console: Console) -> tuple[list[Column], list[str]]:
    columns, left_out = list(COLUMNS), list[str]()
    for column in sorted((c for c in COLUMNS if c.drop), key=lambda c: -c.drop):
        needed = console.measure(_table(rows, columns, box.SIMPLE_HEAD), options=_unlimited(console))
        if needed.maximum <= console.width:
            break
        columns.remove(column)
        left_out.append(column.name)
    return columns, left_out


def _unlimited(console: Console) -> ConsoleOptions:
    return console.options.update(width=PLAIN_WIDTH)


def _table(rows: Sequence[Row], columns: Sequence[Column], style: box.Box) -> Table:
    made = Table(box=style, show_edge=False, pad_edge=False)
    for column in columns:
        made.add_column(column.name, justify="right" if column.right else "left", overflow="fold")
    stage = None
    for row in rows:
        if stage not in (None, row["stage"]):
            made.add_section()
        stage = row["stage"]
        made.add_row(*(Text(column.cell(rows, row)) for column in columns))
    return made


def _metrics(rows: Sequence[Row]) -> str:
    names = dict.fromkeys(str(part(row, "accuracy")["metric"]) for row in rows if part(row, "accuracy").get("metric"))
    return ", ".join(names)


def _closing(verdict: dict[str, Any] | None, metrics: str) -> list[tuple[str, str]]:
    lines = [(formatting.CONVENTIONS + (f" Accuracy is {metrics}." if metrics else ""), "dim")]
    if verdict is None:
        return lines
    checks = verdict.get("checks") or []
    kept = [check for check in checks if formatting.is_kept_contract(check)]
    for check in checks:
        met = check.get("met")
        if check not in kept:
            lines.append((f"{formatting.MARKS[met]:<8}{formatting.check(check)}", STYLES[met]))
    if kept:
        lines.append((f"{formatting.MARKS[True]:<8}{formatting.kept_contracts(kept)}", STYLES[True]))
    for remark in verdict.get("remarks") or []:
        style = "bold yellow" if remark.get("kind") == "baseline_knows_nothing" else ""
        lines.append((f"• {remark.get('text')}", style))
    lines += [(f"FAILED  {target}: {why}", "red") for target, why in (verdict.get("failures") or {}).items()]
    lines.append((f"verdict: {formatting.headline(verdict)}", f"bold {STYLES[verdict.get('met')]}"))
    return lines


STYLES: dict[object, str] = {True: "green", False: "red", None: "yellow"}
