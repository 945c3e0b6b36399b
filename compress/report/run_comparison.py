"""Compares runs in one plain-text table: their final rows, and the change from the first run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from compress.errors import UserError
from compress.ledger import Row
from compress.report import formatting
from compress.report.changes import change_between, final_rows
from compress.report.run_reader import Run, read_run
from compress.report.tables import Column
from compress.report.terminal_table import columns, plain_text, text_table

OMITTED = ("target", "precision", "at 640 px", "GMACs", "p95", "INT8 MACs", "vs. previous")


def compare(folders: Sequence[Path]) -> str:
    """A table with one section per target, precision and device: the final row of each run. Raises UserError for fewer
    than two folders, a folder that is not a run folder, or a damaged file in one."""
    if len(folders) < 2:
        raise UserError("compare", " ".join(map(str, folders)) or "nothing", "name at least two run folders")
    runs = [read_run(folder) for folder in folders]
    comparable_rows = defaultdict[tuple[str, str, str], list[tuple[Run, Row]]](list)
    for run in runs:
        for row in final_rows(run.rows):
            comparable_rows[row.target_name, row.precision, formatting.device(row)].append((run, row))
    head = [Column(name, str) for name in ("target", "precision", "run")]
    head += [*_shown(runs[0]), Column("vs. first run", str)]
    sections = []
    for (target, precision, _), same in comparable_rows.items():
        first_run, first_row = same[0]
        section = []
        for run, row in same:
            cells = [target, precision, run.name, *(str(column.cell(row)) for column in _shown(run))]
            comparable = first_run is runs[0] and run is not first_run
            change = formatting.change(change_between(first_row, row)) if comparable else formatting.MISSING
            section.append([*cells, change])
        sections.append(section)
    verdicts = [f"{run.name}: {formatting.headline(run.verdict).lower()}" for run in runs]
    notes = [f"note: {run.name}: {note}" for run in runs for note in run.notes]
    return "\n".join([plain_text(text_table(head, sections)), "", *verdicts, *notes, formatting.CONVENTIONS])


def _shown(run: Run) -> list[Column]:
    return [column for column in columns(run.rows) if column.name not in OMITTED]
