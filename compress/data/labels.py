"""Reads and validates YOLO label files."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.index import read_all
from compress.errors import UserError
from compress.tasks import Instances, InstanceTask, SupervisedTask

BOX = 5  # class, centre x, centre y, width, height
POLYGON = 7  # class and three points: the smallest polygon
SHOWN = 80  # characters of a row in an error message
TOLERANCE = 1e-4  # labels are often rounded to few decimals


def read_labels(files: Sequence[str], classes: int, task: SupervisedTask | None = None) -> list[Any]:
    """Reads the labels in each file, for detection float32 (n, 5): class, then centre x, y, width, height as fractions
    of the image. There, a polygon becomes its bounding box. For an `InstanceTask` they are `Instances`.

    An absent file means an image without objects. Files that are unchanged since an earlier run are not opened, see
    `compress.data.index`.

    Raises:
        UserError: a file cannot be read, or a row has the wrong number of columns, a value that is not a number, a
            class out of range, a coordinate outside [0, 1] or a box without area, or is a label of another task. The
            message names file and line.
    """
    if not isinstance(task, InstanceTask):
        return unpacked(read_all(files, f"labels of {classes} classes", partial(_read, classes, None)))
    kind = f"{task.name} labels of {classes} classes, {getattr(task, 'keypoints', '')}"
    return [unpacked_instances(value, task.columns) for value in read_all(files, kind, partial(_read, classes, task))]


def packed(rows: np.ndarray) -> str:
    """Rows float32 (n, 5) as a JSON value."""
    return base64.b64encode(rows.astype("<f4").tobytes()).decode()


def unpacked(values: Sequence[str]) -> list[np.ndarray]:
    """The inverse of `packed`, for many images."""
    contents = [base64.b64decode(value) for value in values]
    rows = np.frombuffer(bytearray(b"".join(contents)), "<f4").reshape(-1, BOX)
    ends = np.cumsum([len(content) // (4 * BOX) for content in contents])
    return [rows[first:end] for first, end in zip([0, *ends[:-1].tolist()], ends.tolist())]


def packed_instances(objects: Instances) -> list[Any]:
    """The labels of an image as a JSON value."""
    return [packed(objects.boxes), packed(objects.points), objects.counts.tolist()]


def unpacked_instances(value: Any, columns: int) -> Instances:
    """The inverse of `packed_instances`. `columns`: of a point."""
    boxes, points, counts = value or ("", "", [])
    tables = [np.frombuffer(bytearray(base64.b64decode(text)), "<f4") for text in (boxes, points)]
    return Instances(tables[0].reshape(-1, BOX), tables[1].reshape(-1, columns), np.array(counts, np.int64))


def _read(classes: int, task: InstanceTask | None, path: Path, status: os.stat_result | None) -> Any:
    try:
        if status is not None and not stat.S_ISREG(status.st_mode):  # a folder, or a pipe, on which reading would block
            raise OSError("not a regular file")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("data", path, f"the label file cannot be read ({error}): fix or remove it") from error
    rows: dict[str, tuple[list[float], list[float]]] = {}  # repeated rows are one object
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            rows[line.strip()] = _row(f"{path}:{number}", line, classes, task)
    boxes, shapes = [box for box, _ in rows.values()], [np.array(points) for _, points in rows.values()]
    if task is not None:
        return packed_instances(Instances.of(boxes, shapes, task.columns))
    return packed(np.array(boxes, np.float32))


def _row(location: str, line: str, classes: int, task: InstanceTask | None) -> tuple[list[float], list[float]]:
    """Class and box; and for an `InstanceTask` the points."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        raise UserError(location, _short(line), "a label row must have numbers only") from None
    points: list[float] = []
    box = values
    if task is not None:
        try:
            own, points = task.row(values[1:])
        except ValueError as error:
            raise UserError(location, _short(line), str(error)) from None
        box = [values[0], *own]
    elif len(values) != BOX and (len(values) < POLYGON or len(values) % 2 == 0):
        raise UserError(
            location, _short(line), f"{len(values)} columns: use class x y width height, or class x1 y1 x2 y2 x3 y3 …"
        )
    if not values[0].is_integer() or not 0 <= values[0] < classes:
        raise UserError(location, _short(line), f"class {values[0]:g} is out of range: `names` has {classes} classes")
    coordinates = values[1:]
    if task is not None:
        coordinates = [*box[1:], *(value for index, value in enumerate(points) if index % task.columns < 2)]
    if not all(-TOLERANCE <= value <= 1 + TOLERANCE for value in coordinates):
        raise UserError(location, _short(line), "coordinates must be fractions of the image, in [0, 1]")
    box = box if len(box) == BOX else _bounding_box(values)
    if box[3] <= 0 or box[4] <= 0:
        raise UserError(location, _short(line), "the box has no area: remove the row")
    return box, points


def _short(line: str) -> str:
    text = line.strip()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _bounding_box(values: list[float]) -> list[float]:
    """Bounding box (class, centre x, y, width, height) of a polygon (class, x1, y1, x2, y2, …)."""
    xs, ys = values[1::2], values[2::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return [values[0], (left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
