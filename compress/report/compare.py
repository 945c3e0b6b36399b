"""Runs side by side: what each one ended with, and how that compares with the first run named."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compress.errors import UserError
from compress.report import formatting
from compress.report.chain import change_from_start, change_to, final_rows
from compress.report.run import Row, Run, read_run
from compress.report.table import PLAIN_WIDTH

HEAD = [
    "target",
    "precision",
    "run",
    "stage",
    "GFLOPs",
    "params M",
    "size MB",
    "accuracy",
    "latency ms",
    "timed in",
]
HEAD += ["from its start", "from the first run"]
RIGHT = {"GFLOPs", "params M", "size MB", "accuracy", "latency ms"}


def compare(paths: Sequence[Path]) -> str:
    """A plain-text table: for each target and precision, the last row of each run.

    Raises:
        UserError: fewer than two runs, no such run, or a damaged file in one.
    """
    if len(paths) < 2:
        raise UserError("compare", " ".join(map(str, paths)) or "nothing", "name at least two run folders")
    runs = [read_run(path) for path in paths]
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in HEAD:
        made.add_column(name, justify="right" if name in RIGHT else "left", overflow="fold")
    finals = [(run, row) for run in runs for row in final_rows(run.rows)]
    for key in dict.fromkeys(_key(row) for _, row in finals):
        same = [(run, row) for run, row in finals if _key(row) == key]
        for run, row in same:
            first = same[0][1] if same[0][0] is runs[0] and run is not runs[0] else None
            made.add_row(*(Text(cell) for cell in _cells(run, row, first)))
        made.add_section()
    console = Console(file=StringIO(), width=PLAIN_WIDTH, no_color=True, force_terminal=False)
    console.print(made)
    assert isinstance(console.file, StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().strip("\n").split("\n")]
    verdicts = [f"{run.name}: {formatting.headline(run.verdict).lower()}" for run in runs]
    notes = [f"note: {run.name}: {note}" for run in runs for note in run.notes]
    return "\n".join([*lines, "", *verdicts, *notes, formatting.CONVENTIONS])


def _key(row: Row) -> tuple[str, str, str]:
    device = (row.get("latency_ms") or {}).get("device")
    return formatting.target_name(row), str(row.get("precision")), str(device)


def _cells(run: Run, row: Row, first: Row | None) -> list[str]:
    return [
        formatting.target_name(row),
        str(row.get("precision") or formatting.NONE),
        run.name,
        str(row["stage"]),
        formatting.giga(row.get("flops")),
        formatting.mega(row.get("params"), 3),
        formatting.mega(row.get("size_bytes")),
        formatting.accuracy(row),
        formatting.latency(row),
        formatting.timed_as(row),
        formatting.change(change_from_start(run.rows, row)),
        formatting.change(change_to(first, row)) if first is not None else formatting.NONE,
    ]
