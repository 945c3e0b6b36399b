"""What a stage is called with: a small data set of three classes, a configuration and a context in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from compress.cache import Cache
from compress.config import Config, DataConfig, QuantizeConfig
from compress.data.dataset import DataSet, Split
from compress.data.sample import Sample
from compress.stages.context import Context
from compress.targets.converter import Converter
from compress.tasks import CLASSIFY
from tests.fakes import SIDE


def data(calibration: int = 4) -> DataSet:
    generator = np.random.default_rng(0)

    def split(name: str, count: int) -> Split:
        pixels = [generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(count)]
        return Split(name, [Sample(each, i % 3, (SIDE, SIDE)) for i, each in enumerate(pixels)], SIDE, 3, CLASSIFY)

    splits = (split("train", 4), split("calibration", calibration), split("validation", 4))
    return DataSet(CLASSIFY, ("a", "b", "c"), *splits, fingerprint="f")


def config(calibration: int = 300, **quantize: Any) -> Config:
    settings = QuantizeConfig(**{"max_accuracy_drop": 0.99, **quantize})
    return Config(data=DataConfig(calibration_images=calibration), quantize=settings, threads=1)


def context(config: Config, dataset: DataSet, folder: Path) -> Context:
    (folder / "scratch").mkdir()
    scratch = folder / "scratch"
    cache = Cache(folder / "cache", False)
    return Context(config, dataset, folder, scratch, cache, Converter(scratch, config.export, cache))
