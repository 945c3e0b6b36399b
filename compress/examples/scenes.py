"""`data=field_scenes`: loads the generated scenes, after generating those that are missing in `data.root`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from compress.config import DataConfig
from compress.data.dataset import DataSet
from compress.data.yolo import load_yaml
from compress.examples import field_scenes
from compress.tasks.augmentation import AERIAL


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """Loads farm scenes of `imgsz` pixels. With `data.large_validation=true` the larger validation split is used."""
    splits = ["train", "validation", *(["validation_large"] if config.large_validation else [])]
    folder = field_scenes.prepare(Path(config.root), imgsz, splits, workers=min(8, os.cpu_count() or 1))
    extra = {"test": "validation_large"} if config.large_validation else {}
    path = folder / "data.yaml"
    data = load_yaml(path, config, imgsz, channels, seed, extra=extra, augmentation=AERIAL, shuffled=True)
    if config.large_validation:
        large = data.extra["validation_large"].subset(config.validation_images, seed)
        data = replace(data, validation=large, extra={})
    return data
