"""`data=digits`: classification of 1,797 handwritten digits of 8x8 pixels from scikit-learn. Trains in seconds.

The images are the test set of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998). The splits
are the same for every seed. They have writers in common, because the data do not record which of the 13 writers wrote
a digit.
"""

from __future__ import annotations

import numpy as np

from compress.config import DataConfig
from compress.data.dataset import DataSet, Split, unlabelled
from compress.data.files import check_disjoint, fingerprint
from compress.data.sample import Sample
from compress.errors import MissingExtra
from compress.tasks import CLASSIFY
from compress.tasks.augmentation import Augmentation

SIZES = {"validation": 400, "calibration": 300}  # all other images are for training
# No flips, since a mirrored digit is not a digit. Little scaling, since 8x8 pixels have no detail to lose.
UPRIGHT = Augmentation(flip_left_right=False, scale=(0.85, 1.15), translate=0.06)


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """Loads the digits, enlarged to `imgsz`. `seed` affects only which subsets of the fixed splits are drawn.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    samples = _samples()
    order = np.random.default_rng(0).permutation(len(samples)).tolist()
    parts: dict[str, list[Sample]] = {}
    samples = samples if config.labels else unlabelled(samples)
    for name, size in SIZES.items():
        parts[name], order = [samples[i] for i in order[:size]], order[size:]
    parts["train"] = [samples[i] for i in order]
    check_disjoint([*parts["train"], *parts["calibration"]], {"validation": parts["validation"]})
    splits = {name: Split(name, part, imgsz, channels, CLASSIFY, UPRIGHT) for name, part in parts.items()}
    classes = tuple(str(digit) for digit in range(10))
    return DataSet(
        task=CLASSIFY,
        classes=classes,
        train=splits["train"],
        calibration=splits["calibration"].subset(config.calibration_images, seed),
        validation=splits["validation"].subset(config.validation_images, seed),
        fingerprint=fingerprint(classes, parts),
    )


def _samples() -> list[Sample]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("data", "scikit-learn") from error
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    samples = []
    for image, label in zip(pixels, digits.target.tolist(), strict=True):
        samples.append(Sample(image, label, (image.shape[1], image.shape[0]), image.tobytes().hex()))
    return samples
