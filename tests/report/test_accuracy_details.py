from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compress.ledger import Accuracy, Provenance, Row
from compress.report.accuracy_details import MOST_CLASSES, compared, confusions, figures, per_class
from compress.report.tables import Cell, Table

FIRST = Accuracy(
    "top1", 0.9, 100, (0.85, 0.95), details={"top5": 0.99, "macro_f1": 0.88}, per_class={"cat": 0.8, "dog": 1.0},
    confusion=((40, 10), (0, 50)), obtained=Provenance.measured,
)  # fmt: skip
LAST = replace(
    FIRST, value=0.8, details={"top5": 0.98, "macro_f1": 0.78}, per_class={"cat": 0.6, "dog": 1.0},
    confusion=((30, 20), (0, 50)),
)  # fmt: skip


def row(stage: str, target: str | None, accuracy: Accuracy | None) -> Row:
    return Row(stage, target, "int8" if target else "fp32", imgsz=16, macs=10, accuracy=accuracy)


def rows(first: Accuracy | None = FIRST, last: Accuracy | None = LAST) -> list[Row]:
    between = row("prune", None, FIRST)
    return [row("load", None, first), between, row("finetune", None, LAST), row("export", "openvino", last)]


def texts(table: Table | None) -> list[list[str]]:
    assert table is not None

    def text(cell: str | Cell) -> str:
        return cell if isinstance(cell, str) else " ".join([cell.text, *(line.text for line in cell.details)])

    return [[text(cell) for cell in line] for group in table.groups for line in group]


def names(items: Sequence[tuple[Row, Accuracy]]) -> list[str]:
    return [item[0].stage for item in items]


def test_the_baseline_is_compared_with_the_last_rows() -> None:
    assert names(compared(rows())) == ["load", "finetune", "export"]
    assert names(compared(rows(last=None))) == ["load", "finetune"]
    assert compared([]) == []


def test_every_figure_is_beside_the_judged_one_with_its_change() -> None:
    table = figures(rows())
    assert table is not None
    assert [column.name for column in table.columns][3:] == ["top1 (judged)", "top5", "macro_f1"]
    first, _, last = texts(table)
    assert first == ["load", "torch", "fp32", "0.9000 [0.8500, 0.9500]", "0.9900", "0.8800"]
    assert last == ["export", "openvino", "int8", "0.8000 [0.8500, 0.9500]", "0.9800 −0.0100", "0.7800 −0.1000"]


def test_older_ledgers_have_no_figures() -> None:
    old = Accuracy("top1", 0.9)
    ledger = [row("load", None, old), row("export", "openvino", old)]
    assert figures(ledger) is None and per_class(ledger) is None and confusions(ledger) == []
    assert figures([]) is None and per_class([]) is None


def test_each_class_has_a_row() -> None:
    assert texts(per_class(rows())) == [["cat", "0.8000", "0.6000", "0.6000"], ["dog", "1.0000", "1.0000", "1.0000"]]


def test_of_many_classes_those_that_lost_most_are_listed() -> None:
    many = {f"class {index}": 0.5 for index in range(MOST_CLASSES + 20)}
    table = per_class(rows(replace(FIRST, per_class=many), replace(LAST, per_class={**many, "class 110": 0.1})))
    lines = texts(table)
    assert len(lines) == MOST_CLASSES and lines[0][0] == "class 110"


def test_baseline_and_last_artifact_have_confusion_matrices() -> None:
    charts = confusions(rows())
    headings = [chart.heading for chart in charts]
    assert headings == ["Confusion matrix: load, torch fp32", "Confusion matrix: export, openvino int8"]
    assert "cat taken for dog: 10 of 50" in charts[0].drawing and "cat taken for dog: 20 of 50" in charts[1].drawing
    unnamed = replace(FIRST, per_class={"cat": 0.8})  # a class without images has no entry
    assert "class 0 taken for class 1: 10 of 50" in confusions(rows(unnamed))[0].drawing
