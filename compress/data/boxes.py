"""Converts boxes in pixels, as COCO and Pascal VOC have them, to labels."""

from __future__ import annotations

import logging

import numpy as np

from compress.errors import UserError

log = logging.getLogger(__name__)


def to_labels(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clips boxes to their images and drops those without area.

    Args:
        boxes: float64 (n, 5) class, x1, y1, x2, y2 in pixels.
        sizes: (n, 2) width and height of the image of each box, in pixels.

    Returns:
        float32 (m, 5) class and centre x, y, width, height as fractions of the image; and a mask (n,) of the m boxes.
    """
    corners = boxes[:, 1:] / np.tile(sizes, 2)
    clipped = corners.clip(0, 1)
    low, high = clipped[:, :2], clipped[:, 2:]
    kept = (high > low).all(axis=1)
    return np.hstack([boxes[:, :1], (low + high) / 2, high - low])[kept].astype(np.float32), kept


def check_size(where: str, stated: tuple[int, int], actual: tuple[int, int]) -> None:
    """Compares the size of an image in a label file with that of its file. Another scale is allowed, another shape not.

    Raises:
        UserError: the ratios of the sides differ by more than one pixel.
    """
    if abs(stated[0] * actual[1] - stated[1] * actual[0]) > max(*stated, *actual):
        text = "{}x{}".format(*stated)
        remedy = f"the image has {actual[0]}x{actual[1]} pixels (upright): its boxes would be wrong, correct the size"
        raise UserError(where, text, remedy)
