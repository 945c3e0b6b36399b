"""COCO mean average precision (AP), with exact values for bootstrap resamples of the images.

Protocol (Lin et al., ECCV 2014, arXiv:1405.0312; pycocotools): IoU thresholds 0.50:0.05:0.95; detections of a class are
matched in order of descending score, each to the unmatched ground truth of highest IoU; the precision envelope is
averaged over 101 recall levels; the mean is taken over classes with ground truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from compress.errors import UserError
from compress.tasks.metric import Accuracy, fingerprint, interval, resamples
from compress.tasks.thresholds import Curve

THRESHOLDS = np.linspace(0.5, 0.95, 10)
LEVELS = {"mAP50-95": slice(0, 10), "mAP50": slice(0, 1), "mAP75": slice(5, 6)}  # thresholds of each metric
MAX_DETECTIONS = 300
_RECALLS = 101


@dataclass(frozen=True)
class Detections:
    """Detections in one image, sorted by descending score."""

    boxes: np.ndarray  # (n, 4) x1, y1, x2, y2 in input pixels
    scores: np.ndarray  # (n,) in [0, 1]
    classes: np.ndarray  # (n,) int64

    def take(self, indices: np.ndarray) -> Self:
        """The detections at these indices. Every field of a subclass is an array with one entry per detection too."""
        return type(self)(*(getattr(self, field.name)[indices] for field in fields(self)))


# Similarities in [0, 1] of detections and ground truths of the image with an index: (n, m).
Similarity = Callable[[int, Detections], np.ndarray]


@dataclass(frozen=True)
class Matches:
    """The n detections of a validation set and their matches with the ground truth."""

    image: np.ndarray  # (n,) int64, image index
    score: np.ndarray  # (n,) float64
    label: np.ndarray  # (n,) int64, class index
    matched: np.ndarray  # (n, 10) bool, true positive at each IoU threshold
    truths: np.ndarray  # (images, classes) int64, number of ground truths


def match(detections: Detections, truth: np.ndarray) -> np.ndarray:
    """Returns (n, 10) bool: whether each detection of one image is a true positive at each IoU threshold. `truth` is
    float32 (m, 5) class, x1, y1, x2, y2 in the same pixels as `detections.boxes`."""
    return match_similar(iou(detections.boxes, truth[:, 1:]), detections.classes, truth[:, 0])


def match_similar(overlap: np.ndarray, classes: np.ndarray, truth_classes: np.ndarray) -> np.ndarray:
    """As `match`, for any similarity `overlap` (n, m) in [0, 1] of detections in descending order of score and ground
    truths, with their classes (n,) and (m,)."""
    levels = np.searchsorted(THRESHOLDS, overlap, side="right")  # number of thresholds that each pair passes
    levels[classes[:, None] != truth_classes.astype(np.int64)[None, :]] = 0
    rows, columns = np.nonzero(levels)
    order = np.lexsort((-overlap[rows, columns], rows))
    rows, columns = rows[order], columns[order]
    passed = (1 << levels[rows, columns]) - 1
    # Bit t of an integer is threshold t, so that one loop over the few overlapping pairs handles all ten thresholds.
    taken, matched = [0] * len(truth_classes), [0] * len(classes)
    for row, column, bits in zip(rows.tolist(), columns.tolist(), passed.tolist(), strict=True):
        free = bits & ~taken[column] & ~matched[row]
        taken[column] |= free
        matched[row] |= free
    return (np.array(matched, dtype=np.int64)[:, None] >> np.arange(len(THRESHOLDS)) & 1).astype(bool)


def dice(detections: Detections, others: Detections, similarity: np.ndarray) -> float:
    """Dice coefficient of two sets of detections in one image: twice the number of pairs, of the same class and with a
    `similarity` (n, m) of at least 0.5, over the number of all detections; 1 if there are none."""
    total = len(detections.scores) + len(others.scores)
    pairs = int(match_similar(similarity, detections.classes, others.classes)[:, 0].sum())
    return 2 * pairs / total if total else 1.0


def iou(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Intersection over union (n, m) of boxes (n, 4) and (m, 4), x1, y1, x2, y2; 0 for boxes without area."""
    a, b = left.astype(np.float64)[:, None], right.astype(np.float64)[None]
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.prod(np.maximum(size, 0), axis=-1)
    union = np.prod(a[..., 2:] - a[..., :2], axis=-1) + np.prod(b[..., 2:] - b[..., :2], axis=-1) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def collect(
    detections: Sequence[Detections], truths: Sequence[np.ndarray], classes: int, similarity: Similarity | None = None
) -> Matches:
    """Matches the detections of all images, see `match`. Per image, only the 300 highest scores are used. The first
    column of `truths` has the classes. `similarity`: None: IoU of the boxes."""
    detections = [best(image) for image in detections]
    if similarity is None:
        matched = [match(*pair) for pair in zip(detections, truths, strict=True)]
    else:
        matched = [
            match_similar(similarity(index, image), image.classes, truth[:, 0])
            for index, (image, truth) in enumerate(zip(detections, truths, strict=True))
        ]
    counts = [np.bincount(truth[:, 0].astype(np.int64), minlength=classes)[:classes] for truth in truths]
    return Matches(
        image=np.repeat(np.arange(len(detections)), [len(image.scores) for image in detections]),
        score=np.concatenate([image.scores for image in detections]).astype(np.float64),
        label=np.concatenate([image.classes for image in detections]).astype(np.int64),
        matched=np.concatenate(matched),
        truths=np.stack(counts),
    )


def confident(predictions: Iterable[Detections], confidence: float) -> list[Detections]:
    """The detections of each image that score at least `confidence`."""
    return [image.take(np.flatnonzero(image.scores >= confidence)) for image in predictions]


def best(detections: Detections) -> Detections:
    """Returns the 300 detections with the highest scores, in their order."""
    return detections.take(np.argsort(-detections.scores, kind="stable")[:MAX_DETECTIONS])


def average_precision(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """Computes AP (b, classes, 10) for b resamples; NaN for a class without ground truth in a resample. `weights`
    (images, b) is the number of occurrences of each image in each resample; ones for the original set."""
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
    """AP (b, 10) of one class. Precision peaks at true positives, so it is computed only there."""
    precision = np.zeros((weights.shape[1], len(THRESHOLDS)))
    order = np.flatnonzero(matches.label == index)
    order = order[np.argsort(-matches.score[order], kind="stable")]
    matched, image = matches.matched[order], matches.image[order]
    hits = np.flatnonzero(matched.any(axis=1))
    if len(hits):
        image = image[: hits[-1] + 1]
        starts = np.concatenate([[0], hits[:-1] + 1])
        detected = np.cumsum(np.add.reduceat(weights[image], starts, axis=0), axis=0)  # up to each hit
        for level in range(len(THRESHOLDS)):
            rows = np.flatnonzero(matched[hits, level])
            if len(rows):
                true = np.cumsum(weights[image[hits[rows]]], axis=0)
                precision[:, level] = interpolate(true, detected[rows], positives)
    precision[positives == 0] = np.nan
    return precision


def interpolate(true: np.ndarray, detected: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Mean of the precision envelope over 101 recalls; true, detected: cumulative counts (hits, b), positives (b,)."""
    envelope = np.maximum.accumulate((true / np.maximum(detected, 1))[::-1], axis=0)[::-1]
    reached = np.floor((_RECALLS - 1) * true / np.maximum(positives, 1) + 1e-6) + 1  # recall levels reached by each hit
    gained = np.diff(reached, axis=0, prepend=0)
    return (envelope * gained).sum(axis=0) / _RECALLS


def accuracy(
    matches: Matches,
    classes: Sequence[str],
    name: str,
    identity: Sequence[np.ndarray],
    details: Mapping[str, float] | None = None,
) -> Accuracy:
    """A metric of LEVELS with its bootstrap interval; the others are added to `details`. `name` may have a prefix that
    ends with _, which the others get too. `identity`: arrays that determine the ground truth. Raises UserError if no
    image has a labelled object."""
    prefix, base = name[: name.rfind("_") + 1], name[name.rfind("_") + 1 :]
    images = len(matches.truths)
    if not matches.truths.any():
        raise UserError("data", f"{images} validation images", "none has a labelled object: add labels")
    ap = average_precision(matches, np.ones((images, 1)))[0]  # (classes, 10)
    present = np.asarray(matches.truths.any(axis=0))
    # (resamples, present classes); NaN where a resample has no object of the class
    per_class = average_precision(matches, resamples(images))[:, present, LEVELS[base]].mean(axis=2)
    occurs = ~np.isnan(per_class)
    resampled = np.where(occurs, per_class, 0).sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)
    values = {prefix + each: float(ap[present, levels].mean()) for each, levels in LEVELS.items()}
    return Accuracy(
        metric=name,
        value=values.pop(name),
        images=images,
        ci95=interval(resampled),
        map50=float(ap[present, 0].mean()),
        per_class={each: float(ap[i, LEVELS[base]].mean()) for i, each in enumerate(classes) if present[i]},
        details=values | dict(details or {}),
        resampled=resampled,
        curve=Curve.of(matches.score, matches.matched[:, 0], int(matches.truths.sum())),
        fingerprint=fingerprint(identity),
    )
