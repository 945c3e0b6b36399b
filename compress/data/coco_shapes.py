"""Reads the shapes of objects in COCO files: polygons and run-length encoded masks, and keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from compress.checkpoint import MAX_SIDE
from compress.errors import UserError
from compress.tasks import POSE
from compress.tasks.pose import MAX_KEYPOINTS, Pose

SHOWN = 80  # characters of a value in an error message

Size = tuple[int, int]  # width and height in pixels; 0, 0 if unknown


def polygons(where: str, item: Mapping[str, Any]) -> tuple[np.ndarray, Size]:
    """The outline of the object in an annotation, float32 (p, 2) in pixels, with rows of NaN between its rings, and the
    size of the image if it is a run-length encoding. Raises UserError if there is no valid `segmentation`."""
    value, where = item.get("segmentation"), f"{where}.segmentation"
    if isinstance(value, dict):
        mask = _decoded(where, value)
        return _outlines(where, mask), (mask.shape[1], mask.shape[0])
    if not isinstance(value, list) or not value:
        remedy = "expected polygons or a run-length encoding; for boxes use a detector"
        raise UserError(where, str(value)[:SHOWN], remedy)
    rings: list[np.ndarray] = []
    for ring in value:
        if not isinstance(ring, list) or not all(type(number) in (int, float) for number in ring) or len(ring) % 2:
            raise UserError(where, str(ring)[:SHOWN], "expected lists of numbers, x1, y1, x2, y2, …, in pixels")
        if len(ring) < 6:
            raise UserError(where, str(ring)[:SHOWN], f"a polygon of {len(ring) // 2} points: three are needed")
        points = np.array(ring, np.float32).reshape(-1, 2)
        if not (np.abs(points) < 1e9).all():
            raise UserError(where, str(ring)[:SHOWN], "a coordinate is not finite or too large")
        rings.append(points)
    return _separated(rings), (0, 0)


def keypoints(where: str, item: Mapping[str, Any], count: int) -> np.ndarray:
    """The keypoints of an annotation, float32 (count, 3): x, y in pixels and visibility; all 0 where not labelled.
    Raises UserError if there are none, or another number of them."""
    value, where = item.get("keypoints"), f"{where}.keypoints"
    numbers = value if isinstance(value, list) and all(type(number) in (int, float) for number in value) else None
    if numbers is None:
        remedy = "expected keypoints: x1, y1, visibility1, …; for boxes use a detector"
        raise UserError(where, str(value)[:SHOWN], remedy)
    if len(numbers) != 3 * count:
        why = f"expected {3 * count} numbers, for the {count} keypoints of its category"
        raise UserError(where, f"{len(numbers)} numbers", why)
    points = np.array(numbers, np.float32).reshape(-1, 3)
    if not (np.abs(points) < 1e9).all() or not np.isin(points[:, 2], (0, 1, 2)).all():
        raise UserError(where, str(value)[:SHOWN], "expected finite coordinates, and 0, 1 or 2 as visibility")
    points[points[:, 2] == 0] = 0
    return points


def pose_of(where: str, names: Sequence[Any]) -> Pose:
    """The task for the keypoints that categories name (one list for each). Which keypoint each one is in a mirror is
    taken from the words left and right. Raises UserError if the lists differ or there are none."""
    first = names[0] if names else None
    if not isinstance(first, list) or not 0 < len(first) <= MAX_KEYPOINTS or any(other != first for other in names):
        raise UserError(f"{where}: categories", str(first)[:SHOWN], "all must have the same list `keypoints` of names")
    words = [str(name) for name in first]
    mirrored = [word.replace("left", "\0").replace("right", "left").replace("\0", "right") for word in words]
    paired = len(set(words)) == len(words) and set(mirrored) == set(words)
    flip = tuple(words.index(word) for word in mirrored) if paired else None
    return replace(POSE, keypoints=(len(words), 3), flip_index=flip)


def _separated(rings: Sequence[np.ndarray]) -> np.ndarray:
    gap = np.full((1, 2), np.nan, np.float32)
    return np.concatenate([part for ring in rings for part in (gap, ring)][1:])


def _outlines(where: str, mask: np.ndarray) -> np.ndarray:
    """Outlines of the parts and holes of a mask, through the centres of pixels."""
    found, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [ring.reshape(-1, 2).astype(np.float32) + 0.5 for ring in found]
    if not rings:
        raise UserError(where, "an empty mask", "it has no pixels: remove the annotation")
    return _separated(rings)


def _decoded(where: str, value: Mapping[str, Any]) -> np.ndarray:
    """A run-length encoding as a mask uint8 (h, w). Runs follow the columns, the first is background."""
    size: Any = value.get("size")
    counts: Any = value.get("counts")
    good = isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)
    if not good or not all(0 < side <= MAX_SIDE for side in size):
        raise UserError(where, f"size {str(size)[:SHOWN]}", f"expected [height, width], at most {MAX_SIDE} each")
    runs: Any = _runs(counts) if isinstance(counts, str) else counts
    valid = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
    if not valid or sum(runs) != size[0] * size[1]:
        raise UserError(where, str(counts)[:SHOWN], f"the run lengths do not add up to {size[0]} x {size[1]} pixels")
    pixels = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8)
    return np.ascontiguousarray(pixels.reshape(size[1], size[0]).T)


def _runs(text: str) -> list[int]:
    """Run lengths of COCO's compressed form: signed numbers of 5 bits a character, least first, with bit 6 while more
    follow; from the fourth on, differences from the run before the last. [-1] if it is malformed."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            return [-1]
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs if shift == 0 else [-1]
