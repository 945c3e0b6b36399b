from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from compress.config import DataConfig
from compress.data import DataSet, load
from compress.errors import UserError
from compress.tasks import CLASSIFY


def write_image(path: Path, width: int = 20, height: int = 20, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    seed = 0
    for split, count in (("train", 6), ("val", 2)):
        for name in ("weed", "crop"):
            for i in range(count):
                write_image(tmp_path / split / name / f"{i}.png", 20, 20, seed := seed + 1)
    return tmp_path


def open_folder(folder: Path) -> DataSet:
    return load(DataConfig(name="image_folder", path=str(folder), calibration_images=2), 16, 3, 0)


def test_folders_are_classes(folder: Path) -> None:
    data = open_folder(folder)
    assert (data.task, data.classes) == (CLASSIFY, ("crop", "weed"))
    assert (len(data.train), len(data.calibration), len(data.validation)) == (10, 2, 4)
    assert [data.validation.target(i) for i in range(4)] == [0, 0, 1, 1]
    assert data.train.image(0).shape == (16, 16, 3)


def test_what_is_missing_or_overlaps_is_named(folder: Path) -> None:
    shutil.copy(folder / "train/crop/1.png", folder / "val/crop/9.png")
    with pytest.raises(UserError, match="must not overlap"):
        open_folder(folder)
    (folder / "val/crop/9.png").unlink()
    write_image(folder / "val/stone/0.png")
    with pytest.raises(UserError, match="stone: train/ has no such class"):
        open_folder(folder)
    shutil.rmtree(folder / "val")
    with pytest.raises(UserError, match="val: no such folder"):
        open_folder(folder)
    with pytest.raises(UserError, match=r"data\.path=None"):
        load(DataConfig(name="image_folder"), 16, 3, 0)
