"""COCO average precision of small, medium and large objects, as pycocotools computes it.

Objects of another size are neither required nor wrong: a detection that matches one, and a detection of another size
that matches nothing, is ignored. Sizes are areas of boxes in pixels of the network's input, whereas COCO's results
refer to pixels of the original images and to areas of segments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from compress.tasks.mean_ap import THRESHOLDS, Detections, best, interpolate, iou

# Least and greatest area in square pixels, both inclusive.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}


def average_precision_by_size(
    detections: Sequence[Detections], truths: Sequence[np.ndarray], classes: int
) -> Mapping[str, float]:
    """Returns {size: AP50-95, mean over classes with objects of that size}, without sizes that have none. `truths`:
    float32 (m, 5) class, x1, y1, x2, y2 for each image, in the pixels of the detections."""
    detections = [best(image) for image in detections]
    pairs = [_pairs(*each) for each in zip(detections, truths, strict=True)]
    score = np.concatenate([image.scores for image in detections]).astype(np.float64)
    label = np.concatenate([image.classes for image in detections])
    order = np.argsort(-score, kind="stable")
    result = {}
    for size, (low, high) in SIZES.items():
        within = [(low <= areas) & (areas <= high) for areas in (_area(truth[:, 1:]) for truth in truths)]
        own = [(low <= areas) & (areas <= high) for areas in (_area(image.boxes) for image in detections)]
        matches = [_match(*each) for each in zip(pairs, within, own, strict=True)]
        true, ignored = (np.concatenate(parts)[order] for parts in zip(*matches))
        objects = np.concatenate([truth[inside, 0] for truth, inside in zip(truths, within, strict=True)])
        counts = np.bincount(objects.astype(np.int64), minlength=classes)
        aps = []
        for index in np.flatnonzero(counts):
            rows = label[order] == index
            hits = np.cumsum(true[rows], axis=0)
            counted = np.cumsum(~ignored[rows], axis=0)
            positives = np.full(len(THRESHOLDS), counts[index])
            aps.append(interpolate(hits, counted, positives).mean() if rows.any() else 0.0)
        if aps:
            result[size] = float(np.mean(aps))
    return result


def _area(boxes: np.ndarray) -> np.ndarray:
    sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    return sides[:, 0] * sides[:, 1]


def _pairs(detections: Detections, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a detection and an object of its class with an IoU of at least 0.5: indices of both, IoU, and the number
    of thresholds that it passes."""
    overlap = iou(detections.boxes, truth[:, 1:])
    levels = np.searchsorted(THRESHOLDS, overlap, side="right")
    levels[detections.classes[:, None] != truth[:, 0].astype(np.int64)[None, :]] = 0
    rows, columns = np.nonzero(levels)
    return rows, columns, overlap[rows, columns], levels[rows, columns]


def _match(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], within: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (n, 10) bool twice: whether each detection is a true positive at each threshold, and whether it is
    ignored. `within`, `own`: whether each object and each detection has the size."""
    rows, columns, overlap, passes = pairs
    order = np.lexsort((-overlap, ~within[columns], rows))  # objects of the size are matched before the others
    passed = (1 << passes[order]) - 1
    taken, matched, true = [0] * len(within), [0] * len(own), [0] * len(own)
    counts = within.tolist()
    for row, column, bits in zip(rows[order].tolist(), columns[order].tolist(), passed.tolist(), strict=True):
        free = bits & ~taken[column] & ~matched[row]
        taken[column] |= free
        matched[row] |= free
        true[row] |= free if counts[column] else 0
    levels = np.arange(len(THRESHOLDS))
    found, right = ((np.array(bits, np.int64)[:, None] >> levels & 1).astype(bool) for bits in (matched, true))
    return right, (found & ~right) | (~found & ~own[:, None])
