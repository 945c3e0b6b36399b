"""Small labels and predictions of the tasks segment, pose and obb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from compress.tasks import POSE, Instances, InstanceTask
from compress.tasks.pose import Pose

SQUARE = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], np.float32)


def pose(count: int = 4, flip_index: tuple[int, ...] | None = (0, 1, 3, 2)) -> Pose:
    return replace(POSE, keypoints=(count, 3), flip_index=flip_index)


def corners(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)


def labelled(task: InstanceTask, box: Sequence[float]) -> Instances:
    """One object of class 1 that fills a box of corners: as a label if the box has fractions."""
    x1, y1, x2, y2 = box
    shape = corners(x1, y1, x2, y2)
    if task.columns == 3:
        shape = np.column_stack([shape, np.full(4, 2, np.float32)])
    return Instances.of([[1, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]], [shape], task.columns)
