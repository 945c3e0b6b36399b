"""Precision and recall of scored instances (boxes, masks, …) at every confidence threshold, over all classes together,
since a deployed model usually has one threshold for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compress.ledger import OperatingPoint, Thresholds

DEFAULT = 0.25  # the confidence threshold that Ultralytics predicts with, unless another one is set
BEST_F1, AT_DEFAULT = "best_f1", "confidence_0.25"  # keys of the operating points of a baseline


@dataclass(frozen=True)
class Curve:
    """The numbers of detections with at least each score, for the n different scores in descending order."""

    scores: np.ndarray  # (n,)
    detected: np.ndarray  # (n,) detections that score at least this
    true: np.ndarray  # (n,) those that match an instance
    instances: int  # in the ground truth

    @classmethod
    def of(cls, scores: np.ndarray, matched: np.ndarray, instances: int) -> Curve:
        """The curve of m detections: their scores (m,), and whether each matches an instance (m,), bool."""
        order = np.argsort(-scores, kind="stable")
        scores, true = scores[order], np.cumsum(matched[order])
        last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of those with equal scores
        return cls(scores[last], last + 1, true[last], instances)

    def best_f1(self, near: float | None = None) -> OperatingPoint | None:
        """The point of the highest F1 score; None without a detection. `near`: see `reaching`."""
        if not len(self.scores):
            return None
        return self._point(int(np.argmax(2 * self.true / (self.detected + self.instances))), near)

    def at(self, threshold: float) -> OperatingPoint | None:
        """The point of the lowest score from `threshold` on, with `threshold` as its own; None if no score is."""
        index = int(np.count_nonzero(self.scores >= threshold)) - 1
        return None if index < 0 else self._point(index, threshold)

    def reaching(self, precision: float, near: float | None = None) -> OperatingPoint | None:
        """The point of the highest recall with at least this precision; None if there is none. Its threshold is the
        lowest score of its detections, or `near` if that selects the same detections."""
        reached = np.flatnonzero(self.true >= (precision - 1e-12) * self.detected)
        return self._point(int(reached[-1]), near) if len(reached) else None

    def highest_precision(self) -> float:
        return float((self.true / self.detected).max()) if len(self.scores) else 0.0

    def _point(self, index: int, near: float | None = None) -> OperatingPoint:
        threshold = float(self.scores[index])
        below = float(self.scores[index + 1]) if index + 1 < len(self.scores) else 0.0
        if near is not None and below < near <= threshold:
            threshold = near
        detected, true = int(self.detected[index]), int(self.true[index])
        return OperatingPoint(threshold, true / detected, true / max(self.instances, 1))


def of_baseline(curve: Curve, *, agreement: bool) -> dict[str, Thresholds]:
    """The operating points of a baseline; a point that does not exist is left out. `agreement`: see `compared`."""
    points = {BEST_F1: curve.best_f1()} | ({} if agreement else {AT_DEFAULT: curve.at(DEFAULT)})
    return {name: Thresholds(point, point) for name, point in points.items() if point is not None}


def compared(curve: Curve, baseline: Mapping[str, Thresholds], *, agreement: bool) -> dict[str, Thresholds]:
    """For each operating point of the baseline, the threshold with which `curve` reaches its precision.

    If the ground truth are predictions of the unpruned model itself (`agreement`), that precision is 1 by construction
    and no goal: then the threshold with which most of them are reproduced, by F1 score."""
    result = {}
    for name, entry in baseline.items():
        goal, near = entry.baseline.precision, entry.baseline.threshold
        point = curve.best_f1(near) if agreement else curve.reaching(goal, near)
        reason = None if point else f"its precision is at most {curve.highest_precision():.4f} at any threshold"
        result[name] = Thresholds(entry.baseline, point, reason)
    return result
