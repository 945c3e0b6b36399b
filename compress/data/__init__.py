"""Data sets with disjoint training, calibration and validation splits. `load` reads the one named by `data=…`."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from contextlib import nullcontext

from compress.config import DataConfig
from compress.data.batches import TrainingBatches, batches, images
from compress.data.dataset import (
    DataSet,
    Split,
    resized,
    supervised,
    with_metric,
    with_workers,
    without_images,
    without_labels,
)
from compress.data.sample import Sample
from compress.errors import UserError
from compress.host import without_garbage_collection
from compress.tasks import CLASSIFY, DETECT, SEMANTIC, TASKS, SupervisedTask, Task

__all__ = [
    "DataSet",
    "Sample",
    "Split",
    "TrainingBatches",
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

# {data=…: (module with load(config, imgsz, channels, seed) -> DataSet, task; None: known once the data is loaded)}
LOADERS: dict[str, tuple[str, Task | None]] = {
    "coco": ("compress.data.coco", DETECT),
    "digits": ("compress.examples.digits", CLASSIFY),
    "fashion_mnist": ("compress.examples.fashion_mnist", CLASSIFY),
    "field_scenes": ("compress.examples.scenes", DETECT),
    "image_folder": ("compress.data.image_folder", CLASSIFY),
    "images": ("compress.data.unlabelled", None),
    "masks": ("compress.data.masks", SEMANTIC),
    "module": ("compress.data.user_module", None),
    "tree_crowns": ("compress.examples.tree_crowns", DETECT),
    "voc": ("compress.data.voc", DETECT),
    "yolo": ("compress.data.yolo", DETECT),
}
NONE = "none"  # data=none: no data set is read
IMAGES = "images"  # data=images: task and classes are those of the model


def task_of(config: DataConfig) -> Task | None:
    """Task of a data set, without reading it; None if unknown until it is loaded."""
    if config.task is not None:
        return TASKS[config.task]
    return LOADERS[config.name][1] if config.name in LOADERS else None


def load(
    config: DataConfig,
    imgsz: int,
    channels: int,
    seed: int,
    task: SupervisedTask | None = None,
    classes: Sequence[str] | None = None,
) -> DataSet:
    """Loads the data set `config.name` for a network with a square input; without labels if `config.labels` is false.

    Args:
        imgsz: side of the input in pixels.
        channels: 1 (greyscale), 3 (RGB), or the number of channels of all images, see `compress.data.pixels`.
        seed: selects held-out calibration images and subsets.
        task: the task named by `task.target`, for `data=module` only; that of the model for `data=images`.
        classes: those of the model, for `data=images`.

    Raises:
        UserError: the name is unknown, `channels` is not that of the images, or the data is invalid.
    """
    if config.name not in LOADERS:
        raise UserError("data", config.name, f"choose one of {', '.join(sorted([*LOADERS, NONE]))}")
    if task is not None and config.name not in ("module", IMAGES):
        raise UserError("task.target", task.path, f"data={config.name} has a task of its own: remove task.target")
    module = importlib.import_module(LOADERS[config.name][0])
    with nullcontext() if config.name == "module" else without_garbage_collection():  # user-defined code may need it
        known = {"task": task, "classes": classes}
        given = {name: value for name, value in known.items() if value is not None}
        data: DataSet = module.load(config, imgsz, channels, seed, **given)
    if not config.labels and any(split.labelled for split in (data.train, data.calibration, data.validation)):
        data = without_labels(data)
    if channels not in (1, 3):  # which are never converted: a wrong number is in all images
        for split in (data.train, data.calibration, data.validation, *data.extra.values()):
            if len(split):
                split.image(0)
    requested, available = config.validation_images, len(data.validation)
    if requested is not None and requested > available:
        log.warning("data.validation_images=%d: the split has %d images, all are used", requested, available)
    if config.test and not data.extra:
        raise UserError("data.test", True, f"data={config.name} has no test split: remove data.test=true")
    return with_workers(data, config.workers)
