"""A data set for compress: replace the bodies. docs/adding/data-set.md explains each part."""

from __future__ import annotations

import numpy as np

from compress.data import Sample


class Data:
    """Random boxes, so that the recipe runs before you fill this in."""

    task = "detect"  # or "classify"
    classes = ("object",)

    def train(self) -> list[Sample]:
        return [self._sample(index) for index in range(64)]

    def validation(self) -> list[Sample]:
        return [self._sample(index) for index in range(1000, 1032)]

    def _sample(self, index: int) -> Sample:
        """One image and its label. `source` is a path or uint8 pixels (h, w, 3) RGB; the label of a detector is float32
        (n, 5): class, then centre x, y, width, height as fractions of the image; of a classifier the class number."""
        rng = np.random.default_rng(index)
        pixels = rng.integers(0, 60, (128, 128, 3), dtype=np.uint8)
        x, y = rng.integers(0, 96, 2)
        pixels[y : y + 32, x : x + 32] = 255
        label = np.array([[0, (x + 16) / 128, (y + 16) / 128, 0.25, 0.25]], np.float32)
        return Sample(pixels, label)
