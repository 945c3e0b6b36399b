"""Every weighing as an HTML table: what a number must not be read without stands under it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from compress.report import page, plots, words
from compress.report.chain import Change, change_from_before, change_from_start, number, part
from compress.report.page import text
from compress.report.run import Row


def ledger_table(rows: Sequence[Row]) -> str:
    """The weighings as an HTML table, one body per stage."""
    head = [
        "stage",
        "target",
        "GFLOPs",
        "params M",
        "size MB",
        f"{plots.metric(rows)} ± 95 % CI",
        "latency, ms",
    ]
    head += ["INT8 MACs", "from row before", "from start"]
    top = "".join(f"<th{_right(2 <= i <= 6)}>{text(name)}</th>" for i, name in enumerate(head))
    body = ""
    for _, group in groupby(rows, key=lambda row: row["stage"]):
        body += f'<tbody class="stage">{"".join(_ledger_row(rows, row) for row in group)}</tbody>'
    table = f'<div class="scroll"><table class="dense"><thead><tr>{top}</tr></thead>{body}</table></div>'
    return table + page.note_line(words.CONVENTIONS)


def _ledger_row(rows: Sequence[Row], row: Row) -> str:
    value, _, interval = words.accuracy(row).partition(" ")
    if number(part(row, "accuracy").get("value")) is None:
        value, interval = words.accuracy(row), ""
    share, _, how = words.int8_share(row).partition(" (")
    cells = (
        _lines(row["stage"], "cached" if row.get("cached") else ""),
        _lines(words.target_name(row), str(row.get("precision") or words.NONE)),
        _lines(words.giga(row.get("flops")), f"{words.giga(row.get('macs'))} GMACs", _at_640(row)),
        text(words.mega(row.get("params"), 3)),
        text(words.mega(row.get("size_bytes"))),
        _lines(value, interval),
        _latency(row),
        _lines(share, how.rstrip(")")),
        _change(change_from_before(rows, row)),
        _change(change_from_start(rows, row)),
    )
    return "<tr>" + "".join(f"<td{_right(2 <= i <= 6)}>{cell}</td>" for i, cell in enumerate(cells)) + "</tr>"


def _at_640(row: Row) -> str:
    found = words.giga(row.get("flops_at_640"))
    return "" if found == words.NONE else f"{found} at 640 px"


def _latency(row: Row) -> str:
    timed = words.timed_as(row)
    if timed == words.NONE:
        return text(words.latency(row))
    spread = f'<span class="small">p95 {text(words.p95(row))}</span> '
    return spread + _lines(words.latency(row), words.latency_range(row), timed)


def _lines(first: str, *small: str) -> str:
    """A number, and in small print what it must not be read without."""
    return text(first) + "".join(f'<div class="small">{text(line)}</div>' for line in small if line)


def _change(change: Change) -> str:
    parts = words.change_parts(change)
    lines = (f'<div class="small {_tone(better)}">{text(what)} {text(much)}</div>' for what, much, better in parts)
    return "".join(lines) or words.NONE


def _tone(better: bool | None) -> str:
    return "" if better is None else page.tone(better)


def _right(yes: bool) -> str:
    return ' class="r"' if yes else ""
