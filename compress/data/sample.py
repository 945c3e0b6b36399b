"""One image and its label, before it is brought to the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One image and its label.

    Attributes:
        source: an image file, or uint8 pixels (h, w) grey or (h, w, 3) RGB.
        label: class index, or float32 (n, 5): class, then centre x, y, width, height as shares of the image.
        size: width and height in pixels as decoded (orientation tags applied).
        digest: content hash of the image, empty where none is needed.
    """

    source: Path | np.ndarray
    label: int | np.ndarray
    size: tuple[int, int]
    digest: str = ""
