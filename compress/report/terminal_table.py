"""The ledger as a terminal table, with the verdict below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compress.budget import Verdict
from compress.ledger import Row
from compress.report import formatting
from compress.report.changes import change_from_baseline, change_from_previous
from compress.report.run_reader import read_run
from compress.report.tables import Column, by_stage

PLAIN_WIDTH = 400  # of output that is not a terminal: nothing is wrapped or omitted there
STYLES: dict[object, str] = {True: "green", False: "red", None: "yellow"}


def columns(rows: Sequence[Row]) -> list[Column]:
    """Columns of a ledger; changes are those between its `rows`."""
    return [
        Column("stage", lambda row: formatting.annotated(row.stage, "cached" if row.cached else "")),
        Column("target", lambda row: row.target_name),
        Column("precision", lambda row: row.precision),
        Column("GFLOPs", lambda row: formatting.giga(row.flops), True),
        Column("at 640 px", lambda row: formatting.giga(row.flops_at_640), True, 5),
        Column("GMACs", lambda row: formatting.giga(row.macs), True, 6),
        Column("params M", lambda row: formatting.mega(row.params, 3), True, 4),
        Column("size MB", lambda row: formatting.mega(row.size_bytes), True, 3),
        Column(formatting.quality(rows), formatting.accuracy_text, True),
        Column("latency ms", formatting.latency, True),
        Column("p95", formatting.p95, True, 7),
        Column("timing setup", formatting.timing_setup),
        Column("INT8 MACs", lambda row: formatting.annotated(*formatting.int8_percent(row)), True, 2),
        Column("vs. previous", lambda row: formatting.change(change_from_previous(rows, row)), False, 5),
        Column("vs. baseline", lambda row: formatting.change(change_from_baseline(rows, row)), False, 1),
    ]


def table(rows: Sequence[Row]) -> str:
    """All rows and columns as plain text without escape codes."""
    return plain_text(_stage_table(rows, columns(rows)))


def plain_text(rich_table: Table) -> str:
    text = StringIO()
    Console(file=text, width=PLAIN_WIDTH, no_color=True, force_terminal=False).print(rich_table)
    return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").split("\n"))


def text_table(columns: Iterable[Column], sections: Iterable[Iterable[Iterable[str]]]) -> Table:
    """A rich table of sections of rows of cells."""
    rich_table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        rich_table.add_column(column.name, justify="right" if column.right else "left", overflow="fold")
    for section in sections:
        for row in section:
            rich_table.add_row(*(Text(cell) for cell in row))
        rich_table.add_section()
    return rich_table


def print_table(folder: Path, console: Console | None = None) -> None:
    """Print the table of a run, then its checks and remarks. A terminal gets the columns that fit and the names of the
    others; a pipe or a file gets all columns. Raises UserError as `read_run` does."""
    run = read_run(folder)
    console = console or Console()
    if console.is_terminal:
        fitting, omitted = _fitting(run.rows, console)
        console.print(_stage_table(run.rows, fitting))
        if omitted:
            console.print(f"Omitted here, see report.html: {', '.join(omitted)}.", style="dim")
    else:
        console.print(table(run.rows), soft_wrap=True, markup=False, highlight=False)
    metrics = ", ".join(dict.fromkeys(row.accuracy.metric for row in run.rows if row.accuracy))
    quality = formatting.quality(run.rows)
    conventions = formatting.CONVENTIONS + (f" {quality.capitalize()} is {metrics}." if metrics else "")
    notes = [(f"note: {note}", "yellow") for note in run.notes]
    for line, style in [(conventions, "dim"), *_verdict_lines(run.verdict), *notes]:
        console.print(Text(line, style=style), soft_wrap=True)


def _fitting(rows: Sequence[Row], console: Console) -> tuple[list[Column], list[str]]:
    """The columns that fit the width of the console, and the names of those that do not."""
    fitting, omitted = columns(rows), list[str]()
    unlimited = console.options.update(width=PLAIN_WIDTH)
    for column in sorted((c for c in fitting if c.drop), key=lambda c: -c.drop):
        if console.measure(_stage_table(rows, fitting), options=unlimited).maximum <= console.width:
            break
        fitting.remove(column)
        omitted.append(column.name)
    return fitting, omitted


def _stage_table(rows: Sequence[Row], shown: Sequence[Column]) -> Table:
    return text_table(shown, by_stage(shown, rows))


def _verdict_lines(verdict: Verdict | None) -> list[tuple[str, str]]:
    """(line, style) of each check, remark and failure, and of the verdict."""
    if verdict is None:
        return []
    folded, others = formatting.folded_checks(verdict)
    lines = [(f"{formatting.MARKS[each.met]:<8}{formatting.check(each)}", STYLES[each.met]) for each in others]
    if folded:
        lines.append((f"{formatting.MARKS[True]:<8}{formatting.folded(folded)}", STYLES[True]))
    for remark in verdict.remarks:
        lines.append((f"• {remark.text}", "bold yellow" if remark.kind == "baseline_knows_nothing" else ""))
    lines += [(f"FAILED  {target}: {reason}", "red") for target, reason in verdict.failures.items()]
    return [*lines, (f"verdict: {formatting.headline(verdict)}", f"bold {STYLES[verdict.met]}")]
