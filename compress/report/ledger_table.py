"""The ledger as an HTML table: the conditions of each number stand below it in small print."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from compress.report import formatting, page, plots
from compress.report.chain import Change, change_from_before, change_from_start, number, part
from compress.report.page import Cell, Table
from compress.report.run import Row


def ledger_table(rows: Sequence[Row]) -> Table:
    """One group of table rows per stage."""
    head = ["stage", "target", "GFLOPs", "params M", "size MB", f"{plots.metric(rows)} ± 95 % CI", "latency, ms"]
    head += ["INT8 MACs", "from row before", "from start"]
    groups = [[_cells(rows, row) for row in group] for _, group in groupby(rows, key=lambda row: row["stage"])]
    return Table(head, groups, frozenset(range(2, 7)), note=formatting.CONVENTIONS, dense=True)


def _cells(rows: Sequence[Row], row: Row) -> list[str | Cell]:
    value, _, interval = formatting.accuracy(row).partition(" ")
    if number(part(row, "accuracy").get("value")) is None:
        value, interval = formatting.accuracy(row), ""
    share, _, how = formatting.int8_share(row).partition(" (")
    return [
        _lines(row["stage"], "cached" if row.get("cached") else ""),
        _lines(formatting.target_name(row), str(row.get("precision") or formatting.NONE)),
        _lines(formatting.giga(row.get("flops")), f"{formatting.giga(row.get('macs'))} GMACs", _at_640(row)),
        formatting.mega(row.get("params"), 3),
        formatting.mega(row.get("size_bytes")),
        _lines(value, interval),
        _latency(row),
        _lines(share, how.rstrip(")")),
        _change(change_from_before(rows, row)),
        _change(change_from_start(rows, row)),
    ]


def _at_640(row: Row) -> str:
    flops = formatting.giga(row.get("flops_at_640"))
    return "" if flops == formatting.NONE else f"{flops} at 640 px"


def _latency(row: Row) -> Cell:
    timed = formatting.timed_as(row)
    if timed == formatting.NONE:
        return Cell(formatting.latency(row))
    return _lines(formatting.latency(row), formatting.latency_range(row), timed, before=f"p95 {formatting.p95(row)}")


def _lines(first: str, *small: str, before: str = "") -> Cell:
    return Cell(first, tuple((line, "") for line in small if line), before)


def _change(change: Change) -> Cell:
    lines = [(f"{what} {much}", "" if better is None else page.tone(better)) for what, much, better in
             formatting.change_parts(change)]  # fmt: skip
    return Cell("" if lines else formatting.NONE, tuple(lines))
