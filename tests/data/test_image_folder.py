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
from tests.data.faults import Change, assert_refused, in_turn, put
from tests.data.faults import open_folder as open_whole


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


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    seed = 0
    for split, name, count in (("train", "a", 5), ("train", "b", 5), ("val", "a", 2), ("val", "b", 2)):
        for i in range(count):
            write_image(tmp_path / split / name / f"{i}.png", 8, 8, seed := seed + 1)
    return tmp_path


FOLDERS: dict[str, tuple[Change, str]] = {
    "train is a file": (in_turn(lambda f: shutil.rmtree(f / "train"), put("train", "x")), "train"),
    "val is a file": (in_turn(lambda f: shutil.rmtree(f / "val"), put("val", "x")), "val"),
    "no val": (lambda f: shutil.rmtree(f / "val"), "val"),
    "a class without images": (lambda f: (f / "train/c").mkdir(), "train/c"),
    "an unknown class": (lambda f: write_image(f / "val/z/0.png"), "val/z"),
    "no class folders": (
        in_turn(lambda f: shutil.rmtree(f / "train"), lambda f: write_image(f / "train/0.png")),
        "train",
    ),
    "a file as class": (lambda f: put("val/a/0.png", "x")(f), "0.png"),
    "train linked as val": (
        in_turn(lambda f: shutil.rmtree(f / "val"), lambda f: (f / "val").symlink_to(f / "train")),
        "overlap",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_class_folders_at_fault(case: str, class_folder: Path) -> None:
    assert_refused(*FOLDERS[case], class_folder, open_whole)


@pytest.mark.parametrize("case", ["a class that val lacks", "one class"])
def test_class_folders_that_can_be_read(case: str, class_folder: Path) -> None:
    shutil.rmtree(class_folder / "val/b")
    if case == "one class":
        shutil.rmtree(class_folder / "train/b")
    open_whole(class_folder)


def test_a_file_in_place_of_the_folder(yolo_folder: Path) -> None:
    with pytest.raises(UserError, match=r"data\.yaml"):
        open_whole(yolo_folder / "data.yaml")
