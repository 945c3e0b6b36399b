"""`Sample`: one image and its label, before letterboxing. `Answer`: a prediction in place of a label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its label.

    Attributes:
        source: path of an image file, or uint8 or uint16 pixels, (h, w) greyscale, (h, w, 3) RGB or (h, w, channels).
        label: defined by the task. Classification: the class index. Detection: float32 (n, 5) with class, centre x, y,
            width, height, the last four as fractions of the image. `NO_LABEL`, or an `Answer`, with
            `data.labels=false`.
        size: width and height in pixels after decoding (EXIF orientation applied). Set by `data=module`.
        digest: content hash of the image. Set by `data=module`.
    """

    source: Path | np.ndarray
    label: Any
    size: tuple[int, int] = (0, 0)
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """In place of a label: there is none."""


NO_LABEL = Unlabelled()


@dataclass(frozen=True, slots=True)
class Answer:
    """In place of a label: what the unpruned model predicts for the image, see `compress.measurement.answers`."""

    target: Any  # in the coordinates of the network's input, for the input size at which it was predicted
