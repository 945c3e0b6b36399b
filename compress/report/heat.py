"""Confusion matrices as SVG. Like the charts in `svg`, one drawing serves light and dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from compress.report.svg import WIDTH, drawing, element, rectangle, text

STRONGEST = 0.6  # opacity of a square with all images of its row: numbers stay readable on it
NUMBERED = 20  # largest number of classes for which counts fit into the squares
LETTERS = 16  # of a class name


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str], title: str) -> Markup:
    """Draws counts (n, n) of images by label (row) and predicted class (column), with the names of the n classes."""
    left, top = 132.0, 34.0
    side = (WIDTH - left) / max(len(counts), 1)
    parts = [text(left, 12, "predicted class", "axis"), text(0, 12, "label", "axis")]
    step = 1 if len(counts) <= NUMBERED else 5
    for row, values in enumerate(counts):
        y, total = top + row * side, sum(values)
        if row % step == 0:
            name = f"{row} {names[row]}" if len(names[row]) <= LETTERS else f"{row} {names[row][: LETTERS - 1]}…"
            parts.append(text(left - 8, y + side / 2 + 4, name, "tick", "end"))
            parts.append(text(left + (row + 0.5) * side, top - 7, str(row), "tick", "middle"))
        for column, count in enumerate(values):
            x, part = left + column * side, count / total if total else 0.0
            label = f"{_name(names, row)} taken for {_name(names, column)}: {count} of {total} images"
            opacity = f"{STRONGEST * math.sqrt(part):.3f}"
            parts.append(rectangle(x, y, side - 1, side - 1, "f-1", element("title", label), fill_opacity=opacity))
            if count and len(counts) <= NUMBERED:
                parts.append(text(x + side / 2, y + side / 2 + 4, str(count), "value", "middle"))
    return drawing(parts, math.ceil(top + len(counts) * side), title)


def _name(names: Sequence[str], index: int) -> str:
    return names[index] or f"class {index}"
