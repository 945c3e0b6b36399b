"""A data set of a user's own, whose attributes and methods a test may replace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compress.data import Sample


def samples(count: int, seed: int = 0) -> list[Sample]:
    """Noise images, 6 pixels wide and 4 high, of the classes 0 and 1 in turn."""
    generator = np.random.default_rng(seed)
    return [Sample(generator.integers(0, 256, (4, 6, 3), np.uint8), index % 2) for index in range(count)]


class Own:
    """Twelve images for training and four for validation."""

    classes: Sequence[str] = ("cat", "dog")
    task = "classify"

    def __init__(self, **replaced: object) -> None:
        for name, value in replaced.items():
            setattr(self, name, value)

    def train(self) -> list[Sample]:
        return samples(12)

    def validation(self) -> list[Sample]:
        return samples(4, seed=1)


class WithoutValidation:
    classes = ("cat", "dog")
    task = "classify"

    def train(self) -> list[Sample]:
        return samples(12)


class OwnBoxes:
    """Says no task."""

    classes = ("cat", "dog")

    def __init__(self, **offered: object) -> None:
        for name, value in offered.items():
            setattr(self, name, value)
