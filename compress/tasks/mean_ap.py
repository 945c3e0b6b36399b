"""Mean average precision by COCO's protocol, exactly resampled over images for confidence intervals.

Protocol (Lin et al. 2014, pycocotools): IoU 0.50:0.05:0.95; detections of a class matched greedily by descending
score, each to the free ground truth of highest IoU; precision made monotone and read at 101 recalls; mean over the
classes that have ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS = 300
_RECALLS = 101


@dataclass(frozen=True)
class Detections:
    """Detections on one image, by descending score.

    Attributes:
        boxes: (n, 4) x1, y1, x2, y2 in input pixels.
        scores: (n,) in [0, 1].
        classes: (n,) int64.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Matches:
    """All detections of a validation set, n of them, and how each was matched."""

    images: int
    image: np.ndarray  # (n,) int64, index of the image
    score: np.ndarray  # (n,) float64
    label: np.ndarray  # (n,) int64, class
    matched: np.ndarray  # (n, 10) bool: a true positive at each IoU threshold
    truths: np.ndarray  # (images, classes) int64, ground truths


def match(found: Detections, truth: np.ndarray) -> np.ndarray:
    """(n, 10) bool: is detection i (scores descending) a true positive at each threshold?

    truth: float32 (m, 5) class, x1, y1, x2, y2 in the pixels of `found.boxes`.
    """
    overlap = iou(found.boxes, truth[:, 1:])
    levels = np.searchsorted(THRESHOLDS, overlap, side="right")  # how many thresholds each pair passes
    levels[found.classes[:, None] != truth[:, 0].astype(np.int64)[None, :]] = 0
    rows, columns = np.nonzero(levels)
    order = np.lexsort((-overlap[rows, columns], rows))
    rows, columns = rows[order], columns[order]
    passed = (1 << levels[rows, columns]) - 1
    # Bit t of a number stands for threshold t, so that one walk over the few overlapping pairs does all ten.
    taken, won = [0] * len(truth), [0] * len(found.scores)
    for row, column, bits in zip(rows.tolist(), columns.tolist(), passed.tolist(), strict=True):
        free = bits & ~taken[column] & ~won[row]
        taken[column] |= free
        won[row] |= free
    return (np.array(won, dtype=np.int64)[:, None] >> np.arange(len(THRESHOLDS)) & 1).astype(bool)


def iou(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(n, 4), (m, 4) boxes x1, y1, x2, y2 to (n, m); 0 for boxes without area."""
    a, b = left.astype(np.float64)[:, None], right.astype(np.float64)[None]
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inside = np.prod(np.maximum(size, 0), axis=-1)
    union = np.prod(a[..., 2:] - a[..., :2], axis=-1) + np.prod(b[..., 2:] - b[..., :2], axis=-1) - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def collect(found: Sequence[Detections], truths: Sequence[np.ndarray], classes: int) -> Matches:
    """Match every image's detections; only the 300 best of an image count."""
    found = [_best(item) for item in found]
    counts = [np.bincount(truth[:, 0].astype(np.int64), minlength=classes)[:classes] for truth in truths]
    return Matches(
        images=len(found),
        image=np.repeat(np.arange(len(found)), [len(item.scores) for item in found]),
        score=np.concatenate([item.scores for item in found]).astype(np.float64),
        label=np.concatenate([item.classes for item in found]).astype(np.int64),
        matched=np.concatenate([match(*pair) for pair in zip(found, truths, strict=True)]),
        truths=np.stack(counts),
    )


def _best(found: Detections) -> Detections:
    order = np.argsort(-found.scores, kind="stable")[:MAX_DETECTIONS]
    return Detections(found.boxes[order], found.scores[order], found.classes[order])


def average_precision(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """AP (b, classes, 10) for b resamples of the images; NaN for a class without ground truth in a resample.

    weights: (images, b) how often each resample holds each image; `np.ones((images, 1))` is the set itself.
    """
    classes = matches.truths.shape[1]
    result = np.full((weights.shape[1], classes, len(THRESHOLDS)), np.nan)
    weights = weights.astype(np.float32)
    for index in range(classes):
        positives = matches.truths[:, index].astype(np.float32) @ weights
        for start in range(0, weights.shape[1], 64):  # bounds memory: detections x 64
            part = slice(start, start + 64)
            result[part, index] = _class_ap(matches, index, weights[:, part], positives[part])
    return result


def _class_ap(matches: Matches, index: int, weights: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """AP (b, 10) of one class. Precision peaks at true positives, so the curve is needed there only."""
    precision = np.zeros((weights.shape[1], len(THRESHOLDS)))
    mine = np.flatnonzero(matches.label == index)
    mine = mine[np.argsort(-matches.score[mine], kind="stable")]
    matched, image = matches.matched[mine], matches.image[mine]
    hits = np.flatnonzero(matched.any(axis=1))
    if len(hits):
        image = image[: hits[-1] + 1]
        starts = np.concatenate([[0], hits[:-1] + 1])
        seen = np.cumsum(np.add.reduceat(weights[image], starts, axis=0), axis=0)  # detections up to each hit
        for level in range(len(THRESHOLDS)):
            rows = np.flatnonzero(matched[hits, level])
            if len(rows):
                true = np.cumsum(weights[image[hits[rows]]], axis=0)
                precision[:, level] = _interpolate(true, seen[rows], positives)
    precision[positives == 0] = np.nan
    return precision


def _interpolate(true: np.ndarray, seen: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Mean over 101 recalls of the precision envelope; true, seen (hits, b) cumulative, positives (b,)."""
    envelope = np.maximum.accumulate((true / np.maximum(seen, 1))[::-1], axis=0)[::-1]
    reached = np.floor((_RECALLS - 1) * true / np.maximum(positives, 1) + 1e-6) + 1  # recalls at or below each hit's
    gained = np.diff(reached, axis=0, prepend=0)
    return (envelope * gained).sum(axis=0) / _RECALLS
