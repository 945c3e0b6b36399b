"""Reads one YOLO label file and refuses what would train on nonsense."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compress.errors import UserError

BOX = 5  # class, centre x, centre y, width, height
POLYGON = 7  # class and three points, the smallest polygon
SHOWN = 80  # characters of a row in an error
TOLERANCE = 1e-4  # labels are commonly written with few decimals


def read_labels(path: Path, classes: int) -> np.ndarray:
    """float32 (n, 5) class, centre x, y, width, height as shares of the image; (0, 5) where the file is absent.

    Raises:
        UserError: names file and line of a row with the wrong number of columns, a value that is no number, a class
            out of range, a coordinate outside [0, 1], or a box without area.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return np.zeros((0, BOX), np.float32)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("data", path, f"this label file cannot be read: {error}") from error
    rows: dict[str, list[float]] = {}  # the same row twice is one object
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            rows[line.strip()] = _row(f"{path}:{number}", line, classes)
    return np.array(list(rows.values()), np.float32).reshape(-1, BOX)


def _row(place: str, line: str, classes: int) -> list[float]:
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        raise UserError(place, _short(line), "a label row holds numbers only") from None
    if len(values) != BOX and (len(values) < POLYGON or len(values) % 2 == 0):
        raise UserError(
            place,
            _short(line),
            f"{len(values)} columns: set class x y width height, or a class and a polygon",
        )
    if not values[0].is_integer() or not 0 <= values[0] < classes:
        raise UserError(place, _short(line), f"class {values[0]:g} is out of range: `names` has {classes} classes")
    if not all(-TOLERANCE <= value <= 1 + TOLERANCE for value in values[1:]):
        raise UserError(place, _short(line), "coordinates must be shares of the image, in [0, 1]")
    box = values if len(values) == BOX else _box_of(values)
    if box[3] <= 0 or box[4] <= 0:
        raise UserError(place, _short(line), "this box has no area: take the row out")
    return box


def _short(line: str) -> str:
    text = line.strip()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _box_of(values: list[float]) -> list[float]:
    """The box around a polygon x1 y1 x2 y2 …"""
    xs, ys = values[1::2], values[2::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return [values[0], (left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
