"""`data=images data.path=FOLDER`: images without labels, in a folder and its subfolders.

If the folder has the subfolders `train` and `val` (or `valid`), they are the splits, and with `data.test=true` also
`test`. Otherwise `data.validation_fraction` of the images, and at least `LEAST`, are held out for validation, drawn by
seed. Copies of a file are left out, but near-duplicates, such as frames of one video, may be drawn into different
splits: use folders for those. Calibration images are held out of the training images by seed. Task and
classes are those of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compress.config import DataConfig
from compress.data.assembly import assemble
from compress.data.dataset import DataSet
from compress.data.files import image_files, probe_all, same_content
from compress.data.sample import NO_LABEL, Sample
from compress.errors import UserError
from compress.tasks import SupervisedTask

LEAST = 32  # validation images that are held out at least
FEWEST = 3 * LEAST  # images in a folder without splits

log = logging.getLogger(__name__)


def load(
    config: DataConfig, imgsz: int, channels: int, seed: int, task: SupervisedTask, classes: Sequence[str]
) -> DataSet:
    """Loads the images below `config.path` for a model with this task and these classes.

    Raises:
        UserError: the folder is missing or has too few images, an image cannot be read, or is in two splits.
    """
    root = Path(str(config.path))
    if config.path is None or not root.is_dir():
        raise UserError("data.path", config.path, "no such folder: set data.path to a folder of images")
    validation = next((root / name for name in ("val", "valid") if (root / name).is_dir()), root / "val")
    folders = {"train": root / "train", "validation": validation}
    if all(folder.is_dir() for folder in folders.values()):
        if config.test and (root / "test").is_dir():
            folders["test"] = root / "test"
        contents = {name: _samples(folder) for name, folder in folders.items()}
    else:
        contents = _drawn(root, config, seed)
    return assemble(task, tuple(classes), contents, config, imgsz, channels, seed)


def _samples(folder: Path) -> list[Sample]:
    """The images below a folder, without copies of a file."""
    files = image_files(folder)
    if not files:
        raise UserError("data.path", folder, "no images in it")
    samples: dict[str, Sample] = {}
    copies = 0
    for file, (size, digest) in zip(files, probe_all(files), strict=True):
        sample = Sample(file, NO_LABEL, size, digest)
        if digest in samples and same_content(sample, samples[digest]):
            copies += 1
        else:
            samples[f"{digest} {file}" if digest in samples else digest] = sample
    if copies:
        log.warning("%s: %d images are copies of others and are left out", folder, copies)
    return list(samples.values())


def _drawn(root: Path, config: DataConfig, seed: int) -> dict[str, list[Sample]]:
    """Training and validation images, drawn by seed."""
    samples = _samples(root)
    count = max(round(config.validation_fraction * len(samples)), LEAST)
    if len(samples) < FEWEST:
        remedy = f"{len(samples)} images are too few to hold some out: add some, up to {FEWEST}, or "
        raise UserError("data.path", root, remedy + "make folders train/ and val/ in it")
    drawn = set(np.random.default_rng(seed).permutation(len(samples))[:count].tolist())
    log.info("%s: %d of %d images are held out for validation", root, count, len(samples))
    return {
        "train": [sample for index, sample in enumerate(samples) if index not in drawn],
        "validation": [sample for index, sample in enumerate(samples) if index in drawn],
    }
