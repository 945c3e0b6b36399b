"""Compares runs in one plain-text table: their final rows, and the change from the first run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress.errors import UserError
from compress.ledger import Row
from compress.report import formatting
from compress.report.changes import change_between, final_rows
from compress.report.run_reader import read_run
from compress.report.terminal_table import COLUMNS, plain_text, text_table

OMITTED = ("target", "precision", "at 640 px", "GMACs", "p95", "INT8 MACs", "vs. previous")
ROW_COLUMNS = [column for column in COLUMNS if column.name not in OMITTED]
HEAD = [(name, False) for name in ("target", "precision", "run")]
HEAD += [*((column.name, column.right) for column in ROW_COLUMNS), ("vs. first run", False)]


def compare(folders: Sequence[Path]) -> str:
    """A table with one section per target, precision and device: the final row of each run.

    Raises:
        UserError: fewer than two folders, a folder is not a run folder, or a file in one is damaged.
    """
    if len(folders) < 2:
        raise UserError("compare", " ".join(map(str, folders)) or "nothing", "name at least two run folders")
    runs = [read_run(folder) for folder in folders]
    finals = [(run, row) for run in runs for row in final_rows(run.rows)]
    sections = []
    for target, precision, device in dict.fromkeys(_key(row) for _, row in finals):
        same = [(run, row) for run, row in finals if _key(row) == (target, precision, device)]
        first_run, first_row = same[0]
        section = []
        for run, row in same:
            cells = [target, precision, run.name, *(column.cell(run.rows, row) for column in ROW_COLUMNS)]
            comparable = first_run is runs[0] and run is not first_run
            change = formatting.change(change_between(first_row, row)) if comparable else formatting.MISSING
            section.append([*cells, change])
        sections.append(section)
    verdicts = [f"{run.name}: {formatting.headline(run.verdict).lower()}" for run in runs]
    notes = [f"note: {run.name}: {note}" for run in runs for note in run.notes]
    return "\n".join([plain_text(text_table(HEAD, sections)), "", *verdicts, *notes, formatting.CONVENTIONS])


def _key(row: Row) -> tuple[str, str, str]:
    return row.target_name, row.precision, formatting.device(row)
