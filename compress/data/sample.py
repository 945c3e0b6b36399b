"""One image and its label, before it is brought to the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One image and its label.

    Attributes:
        source: an image file, or uint8 pixels (h, w) grey or (h, w, 3) RGB.
        label: as the task defines it: a class index, or float32 (n, 5): class, then centre x, y, width, height as
            fractions of the image.
        size: width and height in pixels as decoded (orientation tags applied). `data=module` fills it in.
        digest: content hash of the image; `data=module` fills it in.
    """

    source: Path | np.ndarray
    label: Any
    size: tuple[int, int] = (0, 0)
    digest: str = ""
