"""Oriented bounding boxes: rectangles turned by any angle, evaluated by mean average precision with a probabilistic
overlap, as in the Ultralytics package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

from compress.tasks.augmentation import Window
from compress.tasks.instances import InstanceAveragePrecision, Instances, InstanceTask, cut_polygons
from compress.tasks.mean_ap import Detections
from compress.tasks.metric import Metric
from compress.tasks.segment import box_around
from compress.tasks.task import Batch

TINY = 1e-7


@dataclass(frozen=True)
class RotatedDetections(Detections):
    """Detections with turned boxes. `boxes` are their bounding boxes."""

    rotated: np.ndarray  # float32 (n, 5): centre x, y, width, height in input pixels, angle in radians


def rotated(corners: np.ndarray) -> np.ndarray:
    """Converts corners (n, 4, 2) to float32 (n, 5), see `RotatedDetections`: the rectangle of least area around them,
    whose width is the longer side, with an angle in [-π/4, 3π/4)."""
    rows = np.zeros((len(corners), 5), np.float32)
    for row, points in zip(rows, corners.astype(np.float32)):
        (x, y), (width, height), degrees = cv2.minAreaRect(points)
        angle = np.deg2rad(degrees)
        if width < height:
            width, height, angle = height, width, angle + np.pi / 2
        row[:] = x, y, width, height, (angle + np.pi / 4) % np.pi - np.pi / 4
    return rows


def corners(boxes: np.ndarray) -> np.ndarray:
    """The corners (n, 4, 2) of turned boxes (n, 5)."""
    along = boxes[:, 2:3] / 2 * np.column_stack([np.cos(boxes[:, 4]), np.sin(boxes[:, 4])])
    across = boxes[:, 3:4] / 2 * np.column_stack([-np.sin(boxes[:, 4]), np.cos(boxes[:, 4])])
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    return np.stack([boxes[:, :2] + a * along + b * across for a, b in signs], axis=1)


def probiou(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Probabilistic IoU (n, m) of turned boxes (n, 5) and (m, 5): one minus the Hellinger distance of the normal
    distributions with their centres and covariances (Murrugarra-Llerena et al., arXiv:2106.06072, eq. 9 to 15)."""
    (x1, y1, a1, b1, c1), (x2, y2, a2, b2, c2) = _gaussian(left[:, None]), _gaussian(right[None])
    dx, dy, a, b, c = x1 - x2, y1 - y2, a1 + a2, b1 + b2, c1 + c2
    determinant = a * b - c**2
    distance = (a * dy**2 + b * dx**2 - 2 * c * dx * dy) / (4 * (determinant + TINY))
    own = np.maximum(a1 * b1 - c1**2, 0) * np.maximum(a2 * b2 - c2**2, 0)
    distance = distance + 0.5 * np.log(determinant / (4 * np.sqrt(own) + TINY) + TINY)
    return 1 - np.sqrt(1 - np.exp(-np.clip(distance, TINY, 100)) + TINY)


def _gaussian(boxes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Centre x, y and covariance a, b, c of boxes: [[a, c], [c, b]]. A uniform distribution on a side of length w has
    the variance w² / 12."""
    x, y, width, height, angle = np.moveaxis(boxes.astype(np.float64), -1, 0)
    u, v, cos, sin = width**2 / 12, height**2 / 12, np.cos(angle), np.sin(angle)
    return x, y, u * cos**2 + v * sin**2, u * sin**2 + v * cos**2, (u - v) * cos * sin


def rotated_similarity(predictions: RotatedDetections, target: Instances | RotatedDetections) -> np.ndarray:
    """`probiou` of detections with labelled objects or other detections."""
    labelled = isinstance(target, Instances)
    others = rotated(target.points.reshape(-1, 4, 2)) if labelled else target.rotated  # type: ignore[union-attr]
    return probiou(predictions.rotated, others)


ROTATED_AP = InstanceAveragePrecision("rotated_mAP50-95", rotated_similarity, boxes=False)


@dataclass(frozen=True)
class OrientedBoxes(InstanceTask):
    """Four corners for each object. In batches `bboxes` are (m, 5): centre x, y, width, height as fractions of the
    input, and the angle in radians."""

    metric: Metric = ROTATED_AP
    suffix: ClassVar[str] = "-obb"
    shape: ClassVar[str] = "four corners"

    def output_kind(self, *, end_to_end: bool, postprocessed: bool) -> str:
        return self.name  # the boxes of raw outputs are not turned yet: the bench kit cannot compare them

    def row(self, values: Sequence[float]) -> tuple[list[float], list[float]]:
        if len(values) == 8:
            return box_around(values[::2], values[1::2]), list(values)
        what = "boxes: use a model for detect" if len(values) == 4 else "no corners; for polygons use a -seg model"
        raise ValueError(f"{len(values) + 1} columns instead of 9 (class and four corners): these are {what}")

    def label_problem(self, label: Any, classes: int) -> str | None:
        if isinstance(label, Instances) and (label.counts != 4).any():
            return "the label has an object without exactly four corners"
        return super().label_problem(label, classes)

    def cut(self, objects: Instances, window: Window) -> Instances:
        """A rectangle that crosses the border becomes the one of least area around the part inside."""
        cut = cut_polygons(objects, window)
        fitted = [corners(rotated(shape[None]))[0] for shape in cut.shapes()]
        return Instances.of(cut.boxes, fitted)

    def entries(self, targets: list[Instances], side: int) -> Batch:
        boxes = rotated(np.concatenate([target.points for target in targets]).reshape(-1, 4, 2))
        return {"bboxes": torch.from_numpy(boxes / np.array([side, side, side, side, 1], np.float32))}

    def shapes_of(self, predictions: Any) -> list[np.ndarray]:
        return list(corners(predictions.rotated))

    def similarity(self, predictions: Any, others: Any) -> np.ndarray:
        return rotated_similarity(predictions, others)


OBB = OrientedBoxes("obb", published_imgsz=640)
