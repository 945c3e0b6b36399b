"""Weights of the classes in a classifier's loss, for training images that are not evenly divided among the classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def normalised(weights: Sequence[float] | None, labels: Iterable[int], classes: int) -> np.ndarray:
    """Returns float32 (classes,), scaled to a mean of 1 over the training images, so that they do not change the size
    of the gradients.

    Args:
        weights: a positive number for each class; None: inversely proportional to the number of its images, as
            scikit-learn's `class_weight="balanced"`.
        labels: class index of every training image.
        classes: number of classes.
    """
    counts = np.bincount(np.fromiter(labels, np.int64), minlength=classes)
    # The weight of a class without images has no effect.
    chosen = 1 / np.maximum(counts, 1) if weights is None else np.array(weights, np.float64)
    return np.asarray(chosen * counts.sum() / (chosen @ counts), np.float32)
