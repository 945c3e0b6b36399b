"""Boxes in pixels and as fractions."""

from __future__ import annotations

import numpy as np
import pytest

from compress.data.boxes import check_size, to_labels
from compress.errors import UserError


def test_boxes_are_clipped_to_their_image_and_those_without_area_are_dropped() -> None:
    boxes = np.array(
        [
            [0, 10, 10, 30, 20],
            [1, -10, -10, 10, 10],
            [2, 90, 0, 500, 50],
            [3, 5, 5, 5, 9],
            [4, -9, 0, 0, 9],
            [5, 9, 9, 3, 3],
        ]
    )
    rows, kept = to_labels(boxes, np.tile([100, 50], (6, 1)))
    assert kept.tolist() == [True, True, True, False, False, False] and rows.dtype == np.float32
    expected = [[0, 0.2, 0.3, 0.2, 0.2], [1, 0.05, 0.1, 0.1, 0.2], [2, 0.95, 0.5, 0.1, 1]]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


def test_no_boxes() -> None:
    rows, kept = to_labels(np.zeros((0, 5)), np.zeros((0, 2)))
    assert rows.shape == (0, 5) and kept.shape == (0,)


def test_a_scaled_image_is_accepted_and_a_turned_one_is_not() -> None:
    check_size("a", (640, 427), (640, 427))
    check_size("a", (640, 427), (320, 213))
    check_size("a", (640, 427), (1280, 855))
    for actual in ((427, 640), (640, 430), (64, 50)):
        with pytest.raises(UserError, match=r"a.jpg=640x427: the image has \d+x\d+ pixels"):
            check_size("a.jpg", (640, 427), actual)
