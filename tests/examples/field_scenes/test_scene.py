from __future__ import annotations

import numpy as np
import pytest

from compress.examples.field_scenes.scene import CLASSES, SPLITS, render, shapes


@pytest.mark.parametrize("imgsz", [64, 256])
def test_boxes_lie_in_the_image_and_are_large_enough_to_see(imgsz: int) -> None:
    unit = imgsz / 256
    labels: set[int] = set()
    for index in range(12):
        image, rows = render("validation", index, imgsz)
        assert image.shape == (imgsz, imgsz, 3) and image.dtype == np.uint8 and rows.dtype == np.float32
        label, corner, far = rows[:, 0], rows[:, 1:3], rows[:, 3:]
        assert (corner >= 0).all() and (far <= imgsz).all()
        assert (far - corner).min(initial=np.inf) >= 7 * unit - 1
        labels |= set(label.astype(int).tolist())
    assert labels == set(range(len(CLASSES)))


def test_a_scene_depends_on_split_and_index_only() -> None:
    image, rows = render("train", 5, 64)
    again, same = render("train", 5, 64)
    assert (image == again).all() and (rows == same).all()
    for split, index in (("train", 6), ("validation", 5), ("validation_large", 5)):
        assert (render(split, index, 64)[0] != image).any()
    assert len({seed for seed, _ in SPLITS.values()}) == len(SPLITS)


def test_boxes_surround_the_objects() -> None:
    """The picture inside the boxes has more contrast than that of the ground around them."""
    inside, outside = [], []
    for index in range(8):
        image, rows = render("validation", index, 128)
        covered = np.zeros(image.shape[:2], bool)
        for x1, y1, x2, y2 in rows[:, 1:].round().astype(int):
            covered[y1:y2, x1:x2] = True
        edges = np.abs(np.diff(image.astype(int), axis=1, prepend=0)).sum(axis=2)
        edges[:, 0] = 0
        inside.append(edges[covered].mean())
        outside.append(edges[~covered].mean())
    assert np.mean(inside) > 1.2 * np.mean(outside)


def test_shapes_are_those_of_the_objects_that_are_drawn() -> None:
    for index in range(8):
        _, rows = render("validation", index, 128)
        found = shapes("validation", index, 128)
        np.testing.assert_array_equal([(each.label, *each.box) for each in found], rows.reshape(-1, 5).tolist())
        for each in found:
            low, high = each.outline.min(axis=0), each.outline.max(axis=0)
            assert (low >= each.box[:2]).all() and (high <= each.box[2:]).all()
            assert (each.outline >= each.rectangle.min(axis=0) - 1.5).all()
            assert (each.outline <= each.rectangle.max(axis=0) + 1.5).all()


def test_keypoints_go_round_the_object_clockwise() -> None:
    for each in shapes("validation", 3, 128):
        front, right, rear, left = each.keypoints()
        ahead, aside = front - rear, right - left
        assert ahead[0] * aside[1] - ahead[1] * aside[0] > 0 and ahead @ aside == pytest.approx(0, abs=1e-6)
