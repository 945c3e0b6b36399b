"""Data at fault: each case is read sensibly or refused in one line that names the place. None may escape as another
exception, hang or take the machine's memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.config import DataConfig
from compress.data import DataSet, load
from compress.errors import UserError

Change = Callable[[Path], object]
YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def read(data: DataSet) -> None:
    """Every image and label, as a run would."""
    for split in (data.train, data.calibration, data.validation):
        for index in range(len(split)):
            image, target = split.image(index), split.target(index)
            assert image.shape == (32, 32, 3) and image.dtype in (np.uint8, np.float32)
            assert image.min() >= 0 and image.max() <= 255
            assert np.isfinite(target).all()


def open_yolo(folder: Path) -> None:
    path = folder if folder.suffix == ".yaml" else folder / "data.yaml"
    read(load(DataConfig(name="yolo", path=str(path), calibration_images=3), 32, 3, 0))


def open_folder(folder: Path) -> None:
    read(load(DataConfig(name="image_folder", path=str(folder), calibration_images=3), 32, 3, 0))


def assert_refused(change: Change, place: str, folder: Path, open_data: Callable[[Path], None]) -> None:
    """After `change` the data in `folder` is refused in one short line that names `place`."""
    change(folder)
    with pytest.raises(UserError) as caught:
        open_data(folder)
    assert place in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def in_turn(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


def put(place: str, content: bytes | str) -> Change:
    def change(folder: Path) -> None:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def label(content: bytes | str) -> Change:
    return put("labels/train/3.txt", content)


def text(content: bytes | str) -> Change:
    return put("data.yaml", content)


def picture(mode: str, size: tuple[int, int] = (64, 32), name: str = "3.png") -> Change:
    def change(folder: Path) -> None:
        Image.new(mode, size).save(folder / "images/train" / name)

    return change


def linked(target: str, place: str = "images/train/link.png") -> Change:
    return lambda folder: (folder / place).symlink_to(target)


def only(folder: Path, count: int, split: str = "train") -> None:
    for path in sorted((folder / "images" / split).iterdir())[count:]:
        path.unlink()
