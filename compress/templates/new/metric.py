"""A metric for compress, used with metric.target=NAME.NAME_metric.recall. docs/adding/metric.md explains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def recall(predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> float:
    """Fraction of labelled objects for which a detection of their class has a score of at least 0.5.

    Args:
        predictions: one per image; of a detector with `boxes` (n, 4), `scores` (n,) and `classes` (n,).
        targets: one per image; of a detector (n, 5): class, x1, y1, x2, y2 in input pixels.
    """
    hits = total = 0
    for found, target in zip(predictions, targets):
        confident = set(found.classes[found.scores >= 0.5].tolist())
        hits += sum(int(row[0]) in confident for row in target)
        total += len(target)
    return hits / max(total, 1)
