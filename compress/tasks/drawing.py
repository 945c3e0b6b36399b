"""Draws targets on images, for the report."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

# RGB colours that differ in hue and lightness, for classes in turn (Okabe and Ito, Color Universal Design, 2008, and
# darker ones).
COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178),
    (148, 103, 189), (127, 201, 127), (166, 86, 40),
)  # fmt: skip
OPACITY = 0.45  # of areas
FONT, SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.4


def colour(index: int) -> tuple[int, int, int]:
    return COLOURS[index % len(COLOURS)]


def box(canvas: np.ndarray, corners: np.ndarray, index: int, name: str) -> None:
    """Draws a box x1, y1, x2, y2 of class `index` in place, with its name."""
    x1, y1, x2, y2 = (round(float(value)) for value in corners)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour(index), 2)
    label(canvas, (x1, y1), index, name)


def label(canvas: np.ndarray, corner: tuple[int, int], index: int, name: str) -> None:
    """Writes a name above `corner`, or below it at the upper border, in place."""
    (width, height), _ = cv2.getTextSize(name, FONT, SIZE, 1)
    x = max(0, min(corner[0], canvas.shape[1] - width - 4))
    y = corner[1] if corner[1] >= height + 6 else corner[1] + height + 6
    cv2.rectangle(canvas, (x, y - height - 5), (x + width + 3, y), colour(index), cv2.FILLED)
    cv2.putText(canvas, name, (x + 2, y - 3), FONT, SIZE, (0, 0, 0), 1, cv2.LINE_AA)


def outline(canvas: np.ndarray, lines: Sequence[np.ndarray], index: int) -> None:
    """Draws closed lines (p, 2) in place."""
    cv2.polylines(canvas, [np.rint(line).astype(np.int32) for line in lines], True, colour(index), 2, cv2.LINE_AA)


def area(canvas: np.ndarray, mask: np.ndarray, index: int) -> None:
    """Colours the pixels of a mask (h, w) in place."""
    inside = mask.astype(bool)
    mixed = canvas[inside] * (1 - OPACITY) + np.array(colour(index)) * OPACITY
    canvas[inside] = mixed.astype(np.uint8)


def filled(lines: Sequence[np.ndarray], side: int) -> np.ndarray:
    """The mask (side, side) inside closed lines."""
    mask = np.zeros((side, side), np.uint8)
    cv2.fillPoly(mask, [np.rint(line).astype(np.int32) for line in lines], 1)
    return mask


def points(canvas: np.ndarray, places: np.ndarray) -> None:
    """Draws points (k, 2), each in a colour of its own, in place."""
    for index, (x, y) in enumerate(np.rint(places).astype(int).tolist()):
        cv2.circle(canvas, (x, y), 4, (0, 0, 0), cv2.FILLED, cv2.LINE_AA)
        cv2.circle(canvas, (x, y), 3, colour(index), cv2.FILLED, cv2.LINE_AA)
