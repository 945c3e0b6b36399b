from __future__ import annotations

import xml.dom.minidom

import pytest

from compress.report.heat import NUMBERED, STRONGEST, matrix


def test_squares_are_as_strong_as_the_root_of_their_part_of_the_row() -> None:
    drawing = matrix([[75, 25, 0], [0, 10, 0], [0, 0, 0]], ["cat", "dog", "cow"], "title")
    squares = xml.dom.minidom.parseString(drawing).getElementsByTagName("rect")
    strengths = [float(square.getAttribute("fill-opacity")) for square in squares]
    assert strengths == pytest.approx([STRONGEST * part for part in (0.75**0.5, 0.5, 0, 0, 1, 0, 0, 0, 0)], abs=1e-3)
    assert (
        "cat taken for dog: 25 of 100 images" in drawing
        and ">75</text>" in drawing
        and ">0</text>" not in drawing[400:]
    )
    columns = {square.getAttribute("x") for square in squares}
    assert len(columns) == 3 and max(float(x) for x in columns) < 560


def test_many_classes_have_no_numbers_and_hostile_names_are_escaped() -> None:
    count = NUMBERED + 1
    drawing = matrix([[7] * count] * count, ["<img src=x>" * 3] * count, "<b>")
    xml.dom.minidom.parseString(drawing)
    assert ">7</text>" not in drawing and "<img" not in drawing and "<b>" not in drawing
