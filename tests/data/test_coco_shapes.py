"""Masks and keypoints in COCO's format."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from compress.data.coco_shapes import keypoints, polygons, pose_of
from compress.errors import UserError
from compress.tasks.instances import rings


def blob() -> np.ndarray:
    """A mask of two parts, one with a hole."""
    mask = np.zeros((20, 30), np.uint8)
    mask[2:12, 3:15] = 1
    mask[5:8, 6:10] = 0
    mask[15:19, 20:28] = 1
    return mask


def runs(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[0], mask.T.ravel(), [1 - mask.T.ravel()[-1]]])
    ends = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], ends])).tolist()


def test_polygons_are_separated_by_gaps() -> None:
    item = {"segmentation": [[0, 0, 9, 0, 9, 9], [20, 20, 29, 20, 29, 29, 20, 29]]}
    shape, size = polygons("a", item)
    assert size == (0, 0) and [len(ring) for ring in rings(shape)] == [3, 4]


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths_become_outlines_that_fill_the_same_mask(compressed: bool) -> None:
    mask = blob()
    counts: Any = coco_mask.encode(np.asfortranarray(mask))["counts"].decode() if compressed else runs(mask)
    shape, size = polygons("a", {"segmentation": {"size": [20, 30], "counts": counts}})
    assert size == (30, 20) and len(rings(shape)) == 3
    from cv2 import fillPoly

    filled = fillPoly(np.zeros((20, 30), np.uint8), [ring.astype(np.int32) for ring in rings(shape)], 1)
    assert (filled == mask).mean() > 0.97


def test_random_masks_decode_as_in_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = (np.kron(rng.random((6, 9)), np.ones((11, 13))) > 0.6).astype(np.uint8)
        counts = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
        shape, size = polygons("a", {"segmentation": {"size": list(mask.shape), "counts": counts}})
        assert size == (mask.shape[1], mask.shape[0]) and len(shape) > 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "polygons or a run-length encoding; for boxes use a detector"),
        ([], "polygons or a run-length encoding"),
        ([[1, 2, 3, 4]], "a polygon of 2 points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "lists of numbers"),
        ([["1"] * 6], "lists of numbers"),
        ([[1, 2, 3, float("nan"), 5, 6]], "not finite"),
        ([3, 4], "lists of numbers"),
        ({"size": [20, 30], "counts": [5]}, "do not add up to 20 x 30 pixels"),
        ({"size": [20, 30], "counts": "hello"}, "do not add up"),
        ({"size": [20, 30], "counts": "o" * 1000}, "do not add up"),
        ({"size": [20, 30], "counts": [-1, 601]}, "do not add up"),
        ({"size": [20, 30], "counts": None}, "do not add up"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, "expected [height, width]"),
        ({"size": [20], "counts": [20]}, "expected [height, width]"),
        ({"size": [20, 30], "counts": [600]}, "an empty mask"),
    ],
)
def test_a_segmentation_at_fault_is_named(value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        polygons("file.json: annotations[3]", {"segmentation": value})
    assert "annotations[3].segmentation" in str(caught.value) and message in str(caught.value)


def test_keypoints_have_a_visibility() -> None:
    points = keypoints("a", {"keypoints": [1, 2, 2, 9, 9, 0]}, 2)
    assert points.tolist() == [[1, 2, 2], [0, 0, 0]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "for boxes use a detector"),
        ([1, 2, 2], "3 numbers: expected 6 numbers, for the 2 keypoints"),
        ([1, 2, 3, 1, 2, 3], "0, 1 or 2 as visibility"),
        ([1, float("inf"), 2, 1, 2, 2], "expected finite coordinates"),
        (["1"] * 6, "expected keypoints"),
    ],
)
def test_keypoints_at_fault_are_named(value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        keypoints("annotations[3]", {"keypoints": value}, 2)
    assert "annotations[3].keypoints" in str(caught.value) and message in str(caught.value)


def test_the_mirror_follows_from_the_names() -> None:
    task = pose_of("a", [["nose", "left_eye", "right_eye"]] * 2)
    assert task.keypoints == (3, 3) and task.flip_index == (0, 2, 1)
    assert pose_of("a", [["nose", "left_eye"]]).flip_index is None  # no partner
    wrong: list[list[Any]] = [[], [None], [["a"], ["b"]], [[]]]
    for names in wrong:
        with pytest.raises(UserError, match="the same list `keypoints`"):
            pose_of("a", names)
