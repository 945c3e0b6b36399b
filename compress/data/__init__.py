"""Train, calibration and validation splits, never overlapping. `load` turns `data=…` into a DataSet."""

from __future__ import annotations

import importlib
import logging

from compress.config import DataConfig
from compress.data.batches import batches, images
from compress.data.dataset import DataSet, Split, resized, supervised, with_metric, without_images
from compress.data.sample import Sample
from compress.errors import UserError
from compress.tasks import CLASSIFY, DETECT, SupervisedTask, Task

__all__ = [
    "DataSet",
    "Sample",
    "Split",
    "batches",
    "images",
    "load",
    "resized",
    "supervised",
    "task_of",
    "with_metric",
    "without_images",
]

log = logging.getLogger(__name__)

# {data=…: (module that offers load(config, imgsz, channels, seed) -> DataSet, its task; None: only the data tells)}
LOADERS: dict[str, tuple[str, Task | None]] = {
    "digits": ("compress.examples.digits", CLASSIFY),
    "field_scenes": ("compress.examples.scenes", DETECT),
    "image_folder": ("compress.data.image_folder", CLASSIFY),
    "module": ("compress.data.user_module", None),
    "tree_crowns": ("compress.examples.tree_crowns", DETECT),
    "yolo": ("compress.data.yolo", DETECT),
}
NONE = "none"  # the choice that reads nothing


def task_of(name: str) -> Task | None:
    """What a data set is for, known before it is read or rendered; None where only the data tells."""
    return LOADERS[name][1] if name in LOADERS else None


def load(config: DataConfig, imgsz: int, channels: int, seed: int, task: SupervisedTask | None = None) -> DataSet:
    """The data set `config.name`, seen through a square input of `imgsz` pixels and `channels` channels.

    Args:
        task: what `task.target` names, for `data=module`.

    Raises:
        UserError: the name is unknown, the input has neither 1 nor 3 channels, or the data is at fault.
    """
    if config.name not in LOADERS:
        raise UserError("data", config.name, f"choose one of {', '.join(sorted([*LOADERS, NONE]))}")
    if channels not in (1, 3):
        raise UserError("model.channels", channels, "images are read with 1 channel (grey) or 3 (RGB)")
    if task is not None and config.name != "module":
        raise UserError("task.target", task.path, f"data={config.name} has a task of its own: set data=module")
    module = importlib.import_module(LOADERS[config.name][0])
    data: DataSet = module.load(config, imgsz, channels, seed, **({} if task is None else {"task": task}))
    asked, found = config.validation_images, len(data.validation)
    if asked is not None and asked > found:
        log.warning("data.validation_images=%d: there are %d, all of them are used", asked, found)
    if config.test and not data.extra:
        raise UserError("data.test", True, f"data={config.name} names no test split: take data.test=true away")
    return data
