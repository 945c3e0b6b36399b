from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compress.tasks import CLASSIFY, DETECT, OBB, SEGMENT, SEMANTIC, Instances, SupervisedTask
from compress.tasks.drawing import COLOURS, area, colour, label
from compress.tasks.semantic import IGNORED
from tests.tasks.shapes import corners, pose

BOX = [1, 10, 20, 40, 30]  # in pixels of an input of 64 px
SHAPE = corners(10, 20, 40, 30)


def objects(columns: int = 2) -> Instances:
    shape = np.column_stack([SHAPE, np.full(4, 2)]) if columns == 3 else SHAPE
    return Instances.of([BOX], [shape], columns)


def mask() -> np.ndarray:
    result = np.zeros((64, 64), np.uint8)
    result[20:30, 10:40] = 2
    result[:4] = IGNORED
    return result


@pytest.mark.parametrize(
    ("task", "target"),
    [
        (DETECT, np.array([BOX], np.float32)),
        (SEGMENT, objects()),
        (pose(), objects(3)),
        (OBB, objects()),
        (SEMANTIC, mask()),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_objects_are_drawn_where_they_are(task: SupervisedTask, target: Any) -> None:
    canvas = np.full((128, 128, 3), 60, np.uint8)
    task.draw(canvas, target, 2.0, ["background", "weed", "soil"])
    changed = (canvas != 60).any(axis=2)
    assert changed[38:62, 18:82].mean() > 0.05
    assert not changed[70:].any() and not changed[:20].any()  # apart from the name above
    inside = changed[46:54, 30:70].mean()
    assert inside == (1 if task in (SEGMENT, SEMANTIC) else 0)


def test_the_class_of_an_image_is_written_on_it() -> None:
    canvas = np.zeros((64, 64, 3), np.uint8)
    CLASSIFY.draw(canvas, 1, 1.0, ["a", "b"])
    assert (canvas == COLOURS[1]).all(axis=2).sum() > 20


def test_names_stay_inside_the_image() -> None:
    canvas = np.zeros((32, 64, 3), np.uint8)
    label(canvas, (60, 2), 11, "weed")
    assert (canvas == colour(1)).all(axis=2).sum() > 100


def test_areas_are_transparent() -> None:
    canvas = np.full((4, 4, 3), 200, np.uint8)
    area(canvas, np.eye(4), 0)
    assert tuple(canvas[0, 0]) == (213, 181, 110) and (canvas[0, 1] == 200).all()


def test_without_objects_nothing_is_drawn() -> None:
    canvas = np.zeros((32, 32, 3), np.uint8)
    DETECT.draw(canvas, np.zeros((0, 5), np.float32), 1.0, ["a"])
    replace(SEGMENT).draw(canvas, Instances.of([], []), 1.0, ["a"])
    assert not canvas.any()
