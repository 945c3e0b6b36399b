"""`data=images`: which images end up in which split, and which folders are refused."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.config import DataConfig
from compress.data import DataSet, Split, load
from compress.data.sample import Unlabelled
from compress.data.unlabelled import FEWEST, LEAST
from compress.errors import UserError
from compress.tasks import CLASSIFY

CLASSES = ("a", "b")


def fill(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([count, seed])
    for index in range(count):
        Image.fromarray(generator.integers(0, 256, (4, 6, 3), np.uint8)).save(folder / f"{index}.png")
    return folder


def opened(folder: Path, seed: int = 0, **given: object) -> DataSet:
    config = DataConfig("images", path=str(folder), labels=False, **given)  # type: ignore[arg-type]
    return load(config, 8, 3, seed, CLASSIFY, CLASSES)


def names(split: Split) -> set[str]:
    return {str(sample.source) for sample in split.samples}


def test_splits_are_drawn_by_seed_from_all_subfolders(tmp_path: Path) -> None:
    fill(tmp_path / "monday", 60)
    fill(tmp_path / "tuesday" / "noon", 60, 1)
    data = opened(tmp_path, calibration_images=20)
    assert (len(data.validation), len(data.calibration), len(data.train)) == (LEAST, 20, 120 - LEAST - 20)
    splits = [names(split) for split in (data.train, data.calibration, data.validation)]
    assert len(set.union(*splits)) == 120
    assert names(opened(tmp_path, calibration_images=20).validation) == splits[2]
    assert names(opened(tmp_path, 1, calibration_images=20).validation) != splits[2]
    assert len(opened(tmp_path, validation_fraction=0.4).validation) == 48
    assert data.classes == CLASSES and data.task is CLASSIFY and not data.train.labelled
    assert all(isinstance(sample.label, Unlabelled) for sample in data.validation.samples)


@pytest.mark.parametrize("name", ["val", "valid"])
def test_folders_of_splits_are_the_splits(name: str, tmp_path: Path) -> None:
    fill(tmp_path / "train", 9)
    validation = fill(tmp_path / name / "more", 3, 1)
    data = opened(tmp_path)
    assert names(data.validation) == {str(path) for path in validation.iterdir()}
    assert (len(data.train), len(data.calibration)) == (6, 3)
    with pytest.raises(UserError, match="test split"):
        opened(tmp_path, test=True)
    fill(tmp_path / "test", 2, 2)
    assert len(opened(tmp_path, test=True).extra["test"]) == 2


def test_copies_of_a_file_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, FEWEST)
    for index in range(5):
        shutil.copy(tmp_path / f"{index}.png", tmp_path / f"copy {index}.png")
    with caplog.at_level(logging.WARNING):
        data = opened(tmp_path)
    assert len(data.train) + len(data.calibration) + len(data.validation) == FEWEST
    assert "5 images are copies" in caplog.text


@pytest.mark.parametrize(
    ("count", "message"), [(None, "no such folder"), (0, "no images in it"), (5, "5 images are too few")]
)
def test_a_folder_with_too_little_is_refused(count: int | None, message: str, tmp_path: Path) -> None:
    if count is not None:
        fill(tmp_path / "images", count)
    with pytest.raises(UserError, match=message) as caught:
        opened(tmp_path / "images")
    assert caught.value.key == "data.path"


def test_images_have_no_labels() -> None:
    with pytest.raises(UserError, match=r"data\.labels=True: data=images has no labels"):
        DataConfig("images", path=".")
