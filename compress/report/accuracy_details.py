"""Accuracy in detail: all figures, each class, and the confusion matrices of the baseline and of the results."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from compress.ledger import Accuracy, Row
from compress.report import formatting, heat
from compress.report.changes import baseline_row, final_rows
from compress.report.plots import Chart
from compress.report.tables import Cell, Column, Detail, Table, build

MOST_CLASSES = 100  # in the table: of more classes, those that lost most
CONFUSION = "Images by label (row) and predicted class (column). Colours: square root of the part of the row."

Compared = tuple[Row, Accuracy]


def compared(rows: Sequence[Row]) -> list[Compared]:
    """The baseline and, for torch and each target, the rows of the last stage that have an accuracy."""
    first = baseline_row(rows)
    chosen = [] if first is None else [first]
    chosen += [row for row in final_rows(rows) if row is not first]
    return [(row, row.accuracy) for row in chosen if row.accuracy is not None]


def figures(rows: Sequence[Row]) -> Table | None:
    """The judged metric and all further figures; None if there are none, as in older ledgers."""
    items = compared(rows)
    names = list(dict.fromkeys(name for _, accuracy in items for name in accuracy.details))
    if not names:
        return None
    metrics = dict.fromkeys(accuracy.metric for _, accuracy in items)
    judged = [Column(f"{name} (judged)", partial(_judged, name), True) for name in metrics]
    return build([*_NAMES, *judged, *(Column(name, partial(_figure, items, name), True) for name in names)], items)


def per_class(rows: Sequence[Row]) -> Table | None:
    """One row per class: the judged metric on its images or objects; None if no row has it."""
    items = [(row, accuracy) for row, accuracy in compared(rows) if accuracy.per_class]
    classes = list(dict.fromkeys(name for _, accuracy in items for name in accuracy.per_class))

    def lost(name: str) -> float:
        values = [accuracy.per_class[name] for _, accuracy in items if name in accuracy.per_class]
        return values[0] - values[-1]

    if len(classes) > MOST_CLASSES:
        classes = sorted(classes, key=lost, reverse=True)[:MOST_CLASSES]
    columns = [Column("class", lambda name: name)]
    for row, accuracy in items:
        title = f"{row.stage} {row.target_name} {row.precision}"
        columns.append(Column(title, partial(_of_class, accuracy), True))
    return build(columns, classes)


def confusions(rows: Sequence[Row]) -> list[Chart]:
    """The confusion matrices of the baseline and of the last result that has one."""
    items = [(row, accuracy) for row, accuracy in compared(rows) if accuracy.confusion]
    return [_confusion(*item) for item in [*items[:1], *items[1:][-1:]]]


def _confusion(row: Row, accuracy: Accuracy) -> Chart:
    matrix, names = accuracy.confusion, list(accuracy.per_class)
    if len(names) != len(matrix):  # classes without images have no entry
        names = [""] * len(matrix)
    heading = f"Confusion matrix: {row.stage}, {row.target_name} {row.precision}"
    return Chart(heading, heat.matrix(matrix, names, heading), CONFUSION)


def _of_class(accuracy: Accuracy, name: str) -> str:
    return formatting.decimal(accuracy.per_class.get(name), 4)


def _judged(name: str, item: Compared) -> Cell | str:
    row, accuracy = item
    if accuracy.metric != name:
        return formatting.MISSING
    value, *details = formatting.accuracy(row)
    return Cell(value, [Detail(line) for line in details if line])


def _figure(items: Sequence[Compared], name: str, item: Compared) -> Cell | str:
    """A figure and, below it, its difference from the baseline."""
    first, accuracy = items[0][1], item[1]
    before, value = first.details.get(name), accuracy.details.get(name)
    text = formatting.decimal(value, 4)
    if value is None or before is None or accuracy is first or first.images != accuracy.images:
        return text
    return Cell(text, [Detail(formatting.signed(value - before))])


_NAMES = (
    Column("stage", lambda item: item[0].stage),
    Column("target", lambda item: item[0].target_name),
    Column("precision", lambda item: item[0].precision),
)
