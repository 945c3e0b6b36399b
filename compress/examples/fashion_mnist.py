"""`data=fashion_mnist`: classification of 70,000 grey images of 28x28 pixels of clothing, ten classes.

Xiao, Rasul and Vollgraf, arXiv:1708.07747. The files are those of Debian's package `dataset-fashion-mnist`, or of
`data.path`. The published test split is the validation split. The splits are the same for every seed.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

from compress.config import DataConfig
from compress.data.dataset import DataSet, Split
from compress.data.files import check_disjoint, fingerprint
from compress.data.sample import Sample
from compress.errors import UserError, named
from compress.tasks import CLASSIFY
from compress.tasks.augmentation import Augmentation

DEBIAN = "/usr/share/datasets/fashion-mnist"
FILES = {"train": ("train", 60_000), "validation": ("t10k", 10_000)}  # prefix of the files, number of images
SIDE = 28  # pixels
CALIBRATION = 1000  # images held out of the training split
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# Images are enlarged rather than reduced or shifted, since their background is black and that of letterboxing grey.
CLOTHES = Augmentation(scale=(1.0, 1.2), translate=0.04, brightness=0.1, gamma=0.1)
REMEDY = "install Debian's package dataset-fashion-mnist, or set the folder of the four *-ubyte.gz files"


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """Loads the images from `config.path`, or from `DEBIAN`. `seed` affects only which subsets are drawn.

    Raises:
        UserError: a file is missing, damaged, or not that of Fashion-MNIST.
    """
    folder = Path(config.path or DEBIAN)
    parts = {name: _samples(folder, *of) for name, of in FILES.items()}
    order = np.random.default_rng(0).permutation(len(parts["train"])).tolist()
    parts["calibration"] = [parts["train"][i] for i in order[:CALIBRATION]]
    parts["train"] = [parts["train"][i] for i in sorted(order[CALIBRATION:])]
    check_disjoint([*parts["train"], *parts["calibration"]], {"validation": parts["validation"]})
    splits = {name: Split(name, part, imgsz, channels, CLASSIFY, CLOTHES) for name, part in parts.items()}
    return DataSet(
        task=CLASSIFY,
        classes=CLASSES,
        train=splits["train"],
        calibration=splits["calibration"].subset(config.calibration_images, seed),
        validation=splits["validation"].subset(config.validation_images, seed),
        fingerprint=fingerprint(CLASSES, parts),
    )


def _samples(folder: Path, prefix: str, count: int) -> list[Sample]:
    pixels = _idx(folder / f"{prefix}-images-idx3-ubyte.gz", (count, SIDE, SIDE))
    labels = _idx(folder / f"{prefix}-labels-idx1-ubyte.gz", (count,)).tolist()
    if max(labels) >= len(CLASSES):
        raise UserError("data.path", folder, f"{prefix}: class {max(labels)} of {len(CLASSES)}: {REMEDY}")
    return [
        Sample(image, label, (SIDE, SIDE), hashlib.sha256(image.tobytes()).hexdigest())
        for image, label in zip(pixels, labels, strict=True)
    ]


def _idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads a gzipped IDX file of bytes: two zeros, type 8, number of dimensions, big-endian sizes, then the values."""
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    size = len(header) + int(np.prod(shape))
    try:
        with gzip.open(path) as file:
            content = file.read(size + 1)  # no more, even of a file that unpacks to terabytes
    except (OSError, EOFError, zlib.error) as error:
        raise UserError("data.path", path, f"cannot be read ({named(error)}): {REMEDY}") from error
    if len(content) != size or not content.startswith(header):
        raise UserError("data.path", path, f"is not an IDX file of {' x '.join(map(str, shape))} bytes: {REMEDY}")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
