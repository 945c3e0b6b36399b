from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from compress.data import index, labels
from compress.data.labels import read_labels
from compress.errors import UserError
from compress.tasks import OBB, SEGMENT, InstanceTask
from tests.data.faults import Change, assert_refused, in_turn, label, open_yolo
from tests.tasks.shapes import pose


def test_rows_polygons_and_repetitions(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1 0.5 0.5 0.2 0.4\n\n0 0.1 0.2 0.5 0.2 0.5 0.8\n1 0.5 0.5 0.2 0.4\n")
    [rows] = read_labels([str(path)], 2)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [[1, 0.5, 0.5, 0.2, 0.4], [0, 0.3, 0.5, 0.4, 0.6]], rtol=1e-6)


def test_absent_and_empty_files_are_background(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "one.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    found = read_labels([str(tmp_path / f"{name}.txt") for name in ("empty", "one", "absent")], 1)
    assert [rows.shape for rows in found] == [(0, 5), (1, 5), (0, 5)]


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(index, "FEWEST", 3)
    monkeypatch.setattr(index, "SETTLED", 0)
    files = [tmp_path / f"{number}.txt" for number in range(4)]
    for file in files[:3]:
        file.write_text("0 0.5 0.5 0.2 0.2\n" * (file.stem != "1"))
    names = [str(file) for file in files]
    first = read_labels(names, 1)
    monkeypatch.setattr(labels, "_row", None)  # what reads a row
    for before, after in zip(first, read_labels(names, 1), strict=True):
        np.testing.assert_array_equal(before, after)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"0\.txt:1.*class 0 is out of range"):
        read_labels(names, 0)  # other classes: checked again


def test_a_pipe_in_place_of_labels_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"a\.txt.*not a regular file"):
        read_labels([str(tmp_path / "a.txt")], 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0 0.5 0.5 0.2", "4 columns"),
        ("0 0.5 0.5 0.2 0.2 0.9", "6 columns"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 columns"),
        ("2 0.5 0.5 0.2 0.2", "class 2 is out of range"),
        ("-1 0.5 0.5 0.2 0.2", "class -1 is out of range"),
        ("0.5 0.5 0.5 0.2 0.2", "class 0.5 is out of range"),
        ("nan 0.5 0.5 0.2 0.2", "class nan is out of range"),
        ("0 1.5 0.5 0.2 0.2", "in [0, 1]"),
        ("0 0.5 -0.1 0.2 0.2", "in [0, 1]"),
        ("0 0.5 nan 0.2 0.2", "in [0, 1]"),
        ("0 0.5 0.5 0 0.2", "no area"),
        ("cat 0.5 0.5 0.2 0.2", "numbers only"),
    ],
)
def test_a_row_at_fault_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"0 0.5 0.5 0.2 0.2\n{row}\n")
    with pytest.raises(UserError) as caught:
        read_labels([str(path)], 2)
    assert f"{path}:2" in str(caught.value) and message in str(caught.value)


REFUSED: dict[str, tuple[Change, str]] = {
    "label nan": (label("0 nan 0.5 0.1 0.1\n"), "3.txt:1"),
    "label inf": (label("0 0.5 inf 0.1 0.1\n"), "3.txt:1"),
    "label 1e400": (label("0 0.5 0.5 1e400 0.1\n"), "3.txt:1"),
    "label class nan": (label("nan 0.5 0.5 0.1 0.1\n"), "3.txt:1"),
    "label class inf": (label("inf 0.5 0.5 0.1 0.1\n"), "3.txt:1"),
    "label negative class": (label("-1 0.5 0.5 0.1 0.1\n"), "3.txt:1"),
    "label class 1.5": (label("1.5 0.5 0.5 0.1 0.1\n"), "3.txt:1"),
    "label class too large": (label("7 0.5 0.5 0.1 0.1\n"), "3.txt:1"),
    "label in pixels": (label("0 30 12 10 10\n"), "3.txt:1"),
    "label negative size": (label("0 0.5 0.5 -0.1 0.1\n"), "3.txt:1"),
    "label four columns": (label("0 0.5 0.5 0.1\n"), "3.txt:1"),
    "label commas": (label("0,0.5,0.5,0.1,0.1\n"), "3.txt:1"),
    "label words": (label("cat 0.5 0.5 0.1 0.1\n"), "3.txt:1"),
    "label binary": (label(bytes(range(256))), "3.txt"),
    "label long line": (label("0 " + "0.5 " * 2_500_000), "3.txt"),
    "label is a folder": (
        in_turn(lambda f: (f / "labels/train/3.txt").unlink(), lambda f: (f / "labels/train/3.txt").mkdir()),
        "3.txt",
    ),
    "label utf-16": (label("0 0.5 0.5 0.1 0.1\n".encode("utf-16")), "3.txt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_that_names_the_place(case: str, yolo_folder: Path) -> None:
    assert_refused(*REFUSED[case], yolo_folder, open_yolo)


READ: dict[str, Change] = {
    "label empty": label(""),
    "label windows": label("0 0.5 0.5 0.1 0.1\r\n1 0.5 0.5 0.2 0.2\r\n"),
    "label byte order mark": label("\ufeff0 0.5 0.5 0.1 0.1\n"),
    "label absent": lambda f: (f / "labels/train/3.txt").unlink(),
}


@pytest.mark.parametrize("case", READ)
def test_read_as_it_should_be(case: str, yolo_folder: Path) -> None:
    READ[case](yolo_folder)
    open_yolo(yolo_folder)


def test_shapes_are_read_and_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(index, "FEWEST", 2)
    monkeypatch.setattr(index, "SETTLED", 0)
    (tmp_path / "a.txt").write_text("1 0.1 0.2 0.5 0.2 0.3 0.8\n0 0 0 1 0 1 1 0 1\n")
    files = [str(tmp_path / "a.txt"), str(tmp_path / "absent.txt")]
    first = read_labels(files, 2, SEGMENT)
    monkeypatch.setattr(labels, "_row", None)
    for found, empty in (first, read_labels(files, 2, SEGMENT)):
        np.testing.assert_allclose(found.boxes[0], [1, 0.3, 0.5, 0.4, 0.6], rtol=1e-6)
        assert [len(shape) for shape in found.shapes()] == [3, 4]
        assert len(empty) == 0 and empty.points.shape == (0, 2)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (SEGMENT, "0 0.5 0.5 0.2 0.2", "polygon of two points"),
        (SEGMENT, "0 0.1 0.1 0.2 0.2 0.3 1.3", "in [0, 1]"),
        (SEGMENT, "0 0.1 0.1 0.2 0.1 0.3 0.1", "no area"),
        (SEGMENT, "2 0.1 0.1 0.2 0.1 0.3 0.4", "class 2 is out of range"),
        (OBB, "0 0.5 0.5 0.2 0.2", "these are boxes: use a model for detect"),
        (OBB, "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4 0.1 0.2 0.2 0.3 0.3", "-seg"),
        (pose(2), "0 0.5 0.5 0.2 0.2", "these are boxes"),
        (pose(2), "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4 0.1", "-obb"),
        (pose(2), "0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.4 1.4 2", "in [0, 1]"),
    ],
)
def test_a_row_of_another_task_is_named(task: InstanceTask, row: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"{row}\n")
    with pytest.raises(UserError) as caught:
        read_labels([str(path)], 2, task)
    assert f"{path}:1" in str(caught.value) and message in str(caught.value)
