"""Instance segmentation: a mask for each object, evaluated by COCO mean average precision of the masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask

from compress.tasks import drawing
from compress.tasks.augmentation import Window
from compress.tasks.instances import InstanceAveragePrecision, Instances, InstanceTask, cut_polygons, rings
from compress.tasks.mean_ap import Detections
from compress.tasks.metric import Metric
from compress.tasks.task import Batch

SAMPLES = 1000  # points to which an outline is resampled, see `rasterised`
STRIDE = 4  # input pixels per pixel of a mask, as the prototypes of the Ultralytics package


@dataclass(frozen=True)
class MaskDetections(Detections):
    """Detections with masks: arrays of COCO's run-length encodings, {size: [h, w], counts}, at 1 / STRIDE of the
    input."""

    masks: np.ndarray  # (n,) object


def encoded(masks: np.ndarray) -> np.ndarray:
    """Run-length encodings (n,) of masks (n, h, w) of 0 and 1."""
    result = np.empty(len(masks), object)
    if len(masks):
        result[:] = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8))
    return result


def rasterised(shapes: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Masks uint8 (n, side // STRIDE, side // STRIDE) of polygons in pixels of an image of `side`. They are filled at
    full resolution and scaled down, as the Ultralytics package does. Outlines are resampled before they are rounded to
    pixels, as there: otherwise masks would lack pixels that slanted edges cross, 0.003 of mAP50-95 on field scenes."""
    small = side // STRIDE
    masks = np.zeros((len(shapes), small, small), np.uint8)
    for mask, shape in zip(masks, shapes):
        full = np.zeros((side, side), np.uint8)
        cv2.fillPoly(full, [_resampled(ring).astype(np.int32) for ring in rings(shape)], 1)
        cv2.resize(full, (small, small), dst=mask)
    return masks


def _resampled(ring: np.ndarray) -> np.ndarray:
    """A closed line with its own points and SAMPLES others in equal numbers on each edge."""
    count = len(ring)
    places = np.union1d(np.linspace(0, count, SAMPLES), np.arange(count))
    closed = np.concatenate([ring, ring[:1]])
    return np.column_stack([np.interp(places, np.arange(count + 1), closed[:, axis]) for axis in (0, 1)])


def indices(masks: np.ndarray) -> np.ndarray:
    """The image (h, w) of i + 1 where mask i lies on top, 0 where none does. Later masks lie on earlier ones."""
    kind = np.uint8 if len(masks) < 256 else np.int32
    image = np.zeros(masks.shape[1:], kind)
    for index, mask in enumerate(masks):
        image[mask > 0] = index + 1
    return image


def mask_similarity(predictions: MaskDetections, target: Instances | MaskDetections) -> np.ndarray:
    """IoU (n, m) of masks. Where labelled objects overlap, a pixel belongs to the smallest one, as in the validation of
    the Ultralytics package."""
    if not len(predictions.masks) or not len(target.boxes):
        return np.zeros((len(predictions.masks), len(target.boxes)))
    if isinstance(target, Instances):
        masks = rasterised(target.shapes(), STRIDE * predictions.masks[0]["size"][0])
        order = np.argsort(-masks.sum(axis=(1, 2), dtype=np.int64), kind="stable")
        visible = indices(masks[order])
        others = encoded(visible == np.argsort(order)[:, None, None] + 1)
    else:
        others = target.masks
    return np.asarray(coco_mask.iou(list(predictions.masks), list(others), [0] * len(others)))


MASK_AP = InstanceAveragePrecision("mask_mAP50-95", mask_similarity, boxes=True)


@dataclass(frozen=True)
class Segment(InstanceTask):
    """Polygons, whose rings rows of NaN separate: an object of several parts, or with holes.

    Batches also have `masks` (b, s / 4, s / 4), i + 1 where the i-th object of an image lies, and `sem_masks`, the
    class there. Objects are in descending order of area; smaller ones lie on larger ones.
    """

    metric: Metric = MASK_AP
    suffix: ClassVar[str] = "-seg"
    shape: ClassVar[str] = "polygons"

    def row(self, values: Sequence[float]) -> tuple[list[float], list[float]]:
        if len(values) == 4:
            raise ValueError("a box, or a polygon of two points: a mask needs three; for boxes use a model for detect")
        if len(values) < 6 or len(values) % 2:
            raise ValueError(f"{len(values) + 1} columns: use class x1 y1 x2 y2 x3 y3 …")
        return box_around(values[::2], values[1::2]), list(values)

    def cut(self, objects: Instances, window: Window) -> Instances:
        return cut_polygons(objects, window)

    def shapes_of(self, predictions: Any) -> list[np.ndarray]:
        """The largest outline of each mask, or the box of a mask without pixels."""
        return [_outline(mask, box) for mask, box in zip(predictions.masks, predictions.boxes, strict=True)]

    def draw_shape(
        self, canvas: np.ndarray, corners: np.ndarray, places: np.ndarray, shape: np.ndarray, index: int
    ) -> None:
        drawing.area(canvas, drawing.filled(rings(places), canvas.shape[0]), index)
        drawing.outline(canvas, rings(places), index)

    def similarity(self, predictions: Any, others: Any) -> np.ndarray:
        return mask_similarity(predictions, others)

    def label_problem(self, label: Any, classes: int) -> str | None:
        if isinstance(label, Instances) and (label.counts < 3).any():
            return "the label has a polygon of fewer than three points"
        return super().label_problem(label, classes)

    def arranged(self, target: Instances) -> Instances:
        areas = np.array([area(shape) for shape in target.shapes()])
        return target.take(np.argsort(-areas, kind="stable"))

    def entries(self, targets: list[Instances], side: int) -> Batch:
        masks, classes = [], []
        for target in targets:
            index = indices(rasterised(target.shapes(), side))
            masks.append(index)
            classes.append(np.concatenate([np.zeros(1, np.float32), target.boxes[:, 0]])[index])
        kind = np.result_type(*masks)
        return {
            "masks": torch.from_numpy(np.stack(masks).astype(kind)),
            "sem_masks": torch.from_numpy(np.stack(classes)),
        }


def _outline(mask: Any, box: np.ndarray) -> np.ndarray:
    small = coco_mask.decode(mask)
    full = cv2.resize(small, None, fx=STRIDE, fy=STRIDE, interpolation=cv2.INTER_NEAREST)
    found, _ = cv2.findContours(full, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not found or len(largest := max(found, key=cv2.contourArea)) < 3:
        return box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
    return largest.reshape(-1, 2).astype(np.float32)


def area(shape: np.ndarray) -> float:
    """Sum of the areas of a polygon's rings, by the shoelace formula."""
    following = [np.roll(ring, -1, axis=0) for ring in rings(shape)]
    crosses = (ring[:, 0] * after[:, 1] - ring[:, 1] * after[:, 0] for ring, after in zip(rings(shape), following))
    return sum(abs(float(each.sum())) / 2 for each in crosses)


def box_around(xs: Sequence[float], ys: Sequence[float]) -> list[float]:
    """Centre x, y, width and height of points."""
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


SEGMENT = Segment("segment", published_imgsz=640)
