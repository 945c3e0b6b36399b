"""Keypoint detection: a box and k named points for each object, evaluated by COCO mean average precision with object
keypoint similarity (OKS) in place of the overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from compress.tasks import drawing
from compress.tasks.augmentation import Augmentation, Window, clipped_boxes
from compress.tasks.instances import InstanceAveragePrecision, Instances, InstanceTask
from compress.tasks.mean_ap import Detections
from compress.tasks.metric import Metric
from compress.tasks.task import Batch

# Standard deviations of the 17 keypoints of COCO, relative to an object's scale: cocodataset.org/#keypoints-eval
COCO_SIGMAS = np.array(
    [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
) / 10  # fmt: skip
AREA = 0.53  # area of an object as a fraction of that of its box, where only boxes are labelled
MAX_KEYPOINTS = 1000  # of an object in files
COCO_SHAPE = (17, 3)  # keypoints, and numbers of each: x, y and visibility


@dataclass(frozen=True)
class KeypointDetections(Detections):
    """Detections with keypoints."""

    keypoints: np.ndarray  # float32 (n, k, 2 or more): x, y in input pixels, and confidence if the model predicts it


def oks(points: np.ndarray, truth: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Object keypoint similarity (n, m) of keypoints (n, k, 2) and labelled ones (m, k, 3) of objects of `area` (m,)
    in square pixels: exp(-d² / 2 s² κ²), averaged over the labelled points (κ = 2 σ), 0 for objects without any. σ is
    COCO's for 17 keypoints, else 1 / k, as in the Ultralytics package."""
    count = truth.shape[1]
    sigmas = COCO_SIGMAS if count == len(COCO_SIGMAS) else np.full(count, 1 / count)
    squares = ((points[:, None, :, :2].astype(np.float64) - truth[None, :, :, :2]) ** 2).sum(axis=-1)  # (n, m, k)
    near = np.exp(-squares / (2 * (2 * sigmas) ** 2 * (area[None, :, None] + 1e-7)))
    labelled = (truth[:, :, 2] > 0)[None]
    return (near * labelled).sum(axis=-1) / np.maximum(labelled.sum(axis=-1), 1)


def keypoint_similarity(predictions: KeypointDetections, target: Instances | KeypointDetections) -> np.ndarray:
    """`oks` of detections with labelled objects, or with other detections, all of whose points count."""
    if not len(target.boxes) or not len(predictions.keypoints):
        return np.zeros((len(predictions.keypoints), len(target.boxes)))
    if isinstance(target, Instances):
        truth = target.points.reshape(len(target), -1, 3)
    else:
        truth = np.insert(target.keypoints[:, :, :2], 2, 1, axis=2)
    sides = target.boxes[:, -2:] - target.boxes[:, -4:-2]
    return oks(predictions.keypoints, truth, sides.clip(0).prod(axis=1) * AREA)


KEYPOINT_AP = InstanceAveragePrecision("keypoint_mAP50-95", keypoint_similarity, boxes=True)


@dataclass(frozen=True)
class Pose(InstanceTask):
    """k points (x, y, visibility) for each object. Visibility is 0 where a point is not labelled; its x and y then mean
    nothing.

    Batches also have `keypoints` float32 (m, k, 3), x and y as fractions of the input.
    """

    metric: Metric = KEYPOINT_AP
    keypoints: tuple[int, int] = COCO_SHAPE  # keypoints and numbers of each in the data: x, y, and visibility
    flip_index: tuple[int, ...] | None = None  # which keypoint each one is in a mirror; None: images are not mirrored
    columns: ClassVar[int] = 3
    suffix: ClassVar[str] = "-pose"
    shape: ClassVar[str] = "keypoints"

    def row(self, values: Sequence[float]) -> tuple[list[float], list[float]]:
        count, numbers = self.keypoints
        if len(values) != 4 + count * numbers:
            found = {4: ": these are boxes, for a model for detect", 8: ": these are obb labels, for a -obb model"}
            why = found.get(len(values), f": `kpt_shape` in data.yaml has {count} keypoints of {numbers} numbers")
            raise ValueError(f"{len(values) + 1} columns instead of {5 + count * numbers}{why}")
        table = np.array(values[4:]).reshape(count, numbers)
        if numbers == 2:
            table = np.column_stack([table, (table >= 0).all(axis=1)])
        if not np.isin(table[:, 2], (0, 1, 2)).all():
            raise ValueError("the third number of a keypoint, its visibility, must be 0, 1 or 2")
        table[table[:, 2] == 0] = 0
        return list(values[:4]), table.reshape(-1).tolist()

    def label_problem(self, label: Any, classes: int) -> str | None:
        if isinstance(label, Instances) and (label.counts != self.keypoints[0]).any():
            return f"the label has an object without exactly {self.keypoints[0]} keypoints"
        return super().label_problem(label, classes)

    def cut(self, objects: Instances, window: Window) -> Instances:
        """Points outside the window are not visible."""
        boxes, kept = clipped_boxes(objects.boxes, window)
        points = objects.points.copy()
        low, high = np.array(window[:2]), np.array(window[2:])
        points[((points[:, :2] < low) | (points[:, :2] > high)).any(axis=1), 2] = 0
        return Instances(boxes, points, objects.counts).take(kept)

    def reflected(self, objects: Instances) -> Instances:
        assert self.flip_index is not None
        points = objects.points.reshape(-1, self.keypoints[0], 3)[:, list(self.flip_index)]
        return replace(objects, points=points.reshape(-1, 3))

    def collate(
        self, images: list[np.ndarray], targets: list[Any], augmentation: Augmentation, rng: np.random.Generator | None
    ) -> Batch:
        if self.flip_index is None:
            augmentation = replace(augmentation, flip_left_right=False, flip_up_down=False, swap_axes=False)
        return super().collate(images, targets, augmentation, rng)

    def entries(self, targets: list[Instances], side: int) -> Batch:
        points = np.concatenate([target.points for target in targets]).reshape(-1, self.keypoints[0], 3)
        return {"keypoints": torch.from_numpy(points / np.array([side, side, 1], np.float32))}

    def shapes_of(self, predictions: Any) -> list[np.ndarray]:
        """All keypoints, as visible ones."""
        return list(np.insert(predictions.keypoints[:, :, :2], 2, 2, axis=2))

    def draw_shape(
        self, canvas: np.ndarray, corners: np.ndarray, places: np.ndarray, shape: np.ndarray, index: int
    ) -> None:
        drawing.box(canvas, corners, index, "")
        drawing.points(canvas, places[shape[:, 2] > 0])

    def similarity(self, predictions: Any, others: Any) -> np.ndarray:
        return keypoint_similarity(predictions, others)


POSE = Pose("pose", published_imgsz=640)
