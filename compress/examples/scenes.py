"""`data=field_scenes`: loads the generated scenes, after generating those that are missing in `data.root`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from compress.config import DataConfig
from compress.data.dataset import DataSet
from compress.data.yolo import LABELS, load_yaml
from compress.examples import field_scenes
from compress.tasks.augmentation import AERIAL


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """Loads farm scenes of `imgsz` pixels, with the labels of the task `data.task`. With `data.large_validation=true`
    the larger validation split is used."""
    splits = ["train", "validation", *(["validation_large"] if config.large_validation else [])]
    task = "segment" if config.task == "semantic" else config.task  # from the same polygons
    shapes, workers = task in field_scenes.SHAPES, min(8, os.cpu_count() or 1)
    folder = field_scenes.prepare(Path(config.root), imgsz, splits, workers=workers, shapes=shapes)
    extra = {"test": "validation_large"} if config.large_validation else {}
    path = folder / ("pose.yaml" if config.task == "pose" else "data.yaml")
    labels = f"labels_{task}" if shapes else LABELS
    data = load_yaml(
        path, config, imgsz, channels, seed, extra=extra, augmentation=AERIAL, shuffled=True, labels=labels
    )  # fmt: skip
    if config.large_validation:
        large = data.extra["validation_large"].subset(config.validation_images, seed)
        data = replace(data, validation=large, extra={})
    return data
