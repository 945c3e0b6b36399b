"""Train, calibration and validation splits, never overlapping. `load` turns `data=…` into a DataSet."""

from __future__ import annotations

import logging
from collections.abc import Callable

from compress.config import DataConfig
from compress.data import digits, image_folder, scenes, tree_crowns, yolo
from compress.data.batches import batches, images
from compress.data.dataset import DataSet, Split, resized, supervised, without_images
from compress.data.sample import Sample
from compress.errors import UserError
from compress.tasks import CLASSIFY, DETECT, Task

__all__ = ["DataSet", "Sample", "Split", "batches", "images", "load", "resized", "supervised", "task_of", "without_images"]

log = logging.getLogger(__name__)

LOADERS: dict[str, Callable[[DataConfig, int, int, int], DataSet]] = {
    "digits": digits.load,
    "field_scenes": scenes.load,
    "image_folder": image_folder.load,
    "tree_crowns": tree_crowns.load,
    "yolo": yolo.load,
}
CLASSIFICATION = ("digits", "image_folder")  # the others hold boxes
NONE = "none"  # the choice that reads nothing


def task_of(name: str) -> Task | None:
    """What a data set is for, known before it is read or rendered; None where there is no such data."""
    if name not in LOADERS:
        return None
    return CLASSIFY if name in CLASSIFICATION else DETECT


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """The data set `config.name`, seen through a square input of `imgsz` pixels and `channels` channels.

    Raises:
        UserError: the name is unknown, the input has neither 1 nor 3 channels, or the data is at fault.
    """
    if config.name not in LOADERS:
        raise UserError("data", config.name, f"choose one of {', '.join(sorted([*LOADERS, NONE]))}")
    if channels not in (1, 3):
        raise UserError("model.channels", channels, "images are read with 1 channel (grey) or 3 (RGB)")
    data = LOADERS[config.name](config, imgsz, channels, seed)
    asked, found = config.validation_images, len(data.validation)
    if asked is not None and asked > found:
        log.warning("data.validation_images=%d: there are %d, all of them are used", asked, found)
    if config.test and not data.extra:
        raise UserError("data.test", True, f"data={config.name} names no test split: take data.test=true away")
    return data
