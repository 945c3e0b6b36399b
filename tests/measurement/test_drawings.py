from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from torch import nn

from compress.config import Config
from compress.data import DataSet, Sample, without_images
from compress.measurement import drawings
from compress.product import Product
from compress.tasks import CLASSIFY
from tests.fakes import FakeModel


def model() -> FakeModel:
    return FakeModel(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)))


def dataset() -> DataSet:
    rng = np.random.default_rng(0)
    samples = [Sample(rng.integers(0, 256, (16, 16, 3), np.uint8), index % 3, (16, 16)) for index in range(6)]
    empty = without_images(CLASSIFY, ("a", "b", "c"), 16, 3)
    return replace(empty, validation=replace(empty.validation, samples=samples))


def test_columns_are_labels_baseline_and_result(tmp_path: Path) -> None:
    drawings.write(tmp_path, dataset(), model(), Product(model()), Config(seed=1))
    index = json.loads((tmp_path / "drawings/index.json").read_text())
    assert index["columns"] == ["labels", "baseline, torch", "result, torch"]
    assert len(index["rows"]) == drawings.IMAGES
    for row in index["rows"]:
        for name in row:
            image = cv2.imread(str(tmp_path / "drawings" / name))
            assert image is not None and image.shape == (drawings.SIDE, drawings.SIDE, 3)


def test_nothing_is_drawn_without_images(tmp_path: Path) -> None:
    drawings.write(tmp_path, without_images(CLASSIFY, ("a",), 16, 3), model(), Product(model()), Config())
    assert not any(tmp_path.iterdir())


def test_the_same_seed_draws_the_same_images(tmp_path: Path) -> None:
    baseline = model()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        drawings.write(tmp_path / name, dataset(), baseline, Product(baseline), Config())
    files = sorted((tmp_path / "a/drawings").iterdir())
    assert files and all(file.read_bytes() == (tmp_path / "b/drawings" / file.name).read_bytes() for file in files)
    assert np.any(cv2.imread(str(next(file for file in files if file.suffix == ".jpg"))))
