"""`data=masks data.path=…`: semantic segmentation data, an image in `images/<split>/` and its mask, a .png file of the
same name, in `masks/<split>/`; the splits are `train`, `val` and, with data.test=true, `test`.

The pixels of a mask are class indices, and 255 where there is no label. Masks have one channel of 8 bits, or a palette,
whose colours do not matter. The names of the classes are `data.classes`, or the lines of `classes.txt`. Data without
`images/train` can only be used for evaluation.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.config import DataConfig
from compress.data.assembly import assemble
from compress.data.dataset import DataSet
from compress.data.files import image_files, probe_all
from compress.data.index import read_all
from compress.data.sample import Sample
from compress.errors import UserError
from compress.tasks.semantic import IGNORED, SEMANTIC, MaskFile

CLASSES = "classes.txt"
KEY = "data.path"


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """Loads the data set in the folder `config.path`.

    Raises:
        UserError: a folder, a mask or the names of the classes are missing, an image or mask cannot be read, a mask has
            another size than its image or a pixel of no class, or an image is in two splits.
    """
    if config.path is None:
        raise UserError(KEY, None, "set data.path to a folder with images/ and masks/")
    root = Path(config.path)
    names = {"train": "train", "val": "validation", **({"test": "test"} if config.test else {})}
    if not (root / "images" / "train").is_dir():
        del names["train"]  # evaluation only
    classes = _classes(root, config)
    samples = {name: _samples(root, split, len(classes)) for split, name in names.items()}
    return assemble(SEMANTIC, classes, samples, config, imgsz, channels, seed)


def _classes(root: Path, config: DataConfig) -> tuple[str, ...]:
    key, names = "data.classes", config.classes
    if names is None:
        key, path = KEY, root / CLASSES
        try:
            names = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            why = f"the names of the classes cannot be read ({error}): write one per line, or set data.classes"
            raise UserError(KEY, path, why) from error
        names = [name.strip() for name in names if name.strip()]
    if not 2 <= len(names) < IGNORED or len(set(names)) < len(names):
        raise UserError(key, names, f"name 2 to {IGNORED - 1} classes, each once")
    return tuple(names)


def _samples(root: Path, split: str, classes: int) -> list[Sample]:
    folder = root / "images" / split
    images = image_files(folder) if folder.is_dir() else []
    if not images:
        raise UserError(KEY, folder, "no such folder, or no images in it: data=masks reads images/ and masks/")
    masks = [root / "masks" / split / image.relative_to(folder).with_suffix(".png") for image in images]
    samples = []
    for image, (size, digest), mask, entry in zip(
        images, probe_all(images), masks, read_all(masks, "masks", _read), strict=True
    ):
        width, height, highest, mask_digest = entry
        if (width, height) != size:
            why = f"the mask has {width} x {height} pixels, its image {image} {size[0]} x {size[1]}: correct it"
            raise UserError("data", mask, why)
        if highest >= classes:
            why = f"a pixel has class {highest}; {classes} classes are named: use 0 to {classes - 1}, or {IGNORED}"
            raise UserError("data", mask, why)
        samples.append(Sample(image, MaskFile(mask, mask_digest), size, digest))
    return samples


def _read(path: Path, status: os.stat_result | None) -> Sequence[Any]:
    """Width, height, highest class (-1: none) and digest of a mask."""
    if status is None:
        raise UserError("data", path, "no such mask: each image needs one, with the same name and .png")
    pixels = MaskFile(path, "").read()
    labelled = pixels[pixels != IGNORED]
    digest = hashlib.sha256(np.array(pixels.shape).astype("<i8").tobytes() + pixels.tobytes()).hexdigest()
    return pixels.shape[1], pixels.shape[0], int(labelled.max()) if labelled.size else -1, digest
