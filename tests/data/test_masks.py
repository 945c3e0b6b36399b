"""`data=masks`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress import data
from compress.config import DataConfig
from compress.errors import UserError
from compress.tasks.semantic import IGNORED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for kind in ("images", "masks"):
            (tmp_path / kind / split / "field").mkdir(parents=True)
        for index in range(count):
            name = f"{split}/field/{index}"
            image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
            image.save(tmp_path / "images" / f"{name}.jpg")
            mask = Image.fromarray(rng.choice(np.array([0, 1, IGNORED], np.uint8), (24, 32)))
            mask.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
            mask.save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "classes.txt").write_text("soil\nweed\n")
    return tmp_path


def config(folder: Path, **keys: object) -> DataConfig:
    return DataConfig(name="masks", path=str(folder), calibration_images=2, **keys)  # type: ignore[arg-type]


def test_images_and_masks_of_a_folder(folder: Path) -> None:
    loaded = data.load(config(folder), 64, 3, 0)
    assert loaded.classes == ("soil", "weed") and loaded.task.name == "semantic"
    assert [len(split) for split in (loaded.train, loaded.calibration, loaded.validation)] == [4, 2, 3]
    target = loaded.validation.target(0)
    assert target.shape == (64, 64) and set(np.unique(target)) == {0, 1, IGNORED}
    assert (target[:8] == IGNORED).all()  # letterboxed
    assert loaded.fingerprint == data.load(config(folder), 32, 3, 1).fingerprint
    assert data.load(config(folder, classes=["a", "b"]), 64, 3, 0).classes == ("a", "b")


def test_a_changed_mask_changes_the_fingerprint(folder: Path) -> None:
    before = data.load(config(folder), 64, 3, 0).fingerprint
    Image.fromarray(np.ones((24, 32), np.uint8)).save(folder / "masks/val/field/0.png")
    assert data.load(config(folder), 64, 3, 0).fingerprint != before


def test_without_training_images_for_evaluation_only(folder: Path) -> None:
    (folder / "images/train").rename(folder / "images/other")
    assert len(data.load(config(folder), 64, 3, 0).train) == 0


def wrong_size(folder: Path) -> None:
    Image.new("L", (32, 32)).save(folder / "masks/val/field/1.png")


def unknown_class(folder: Path) -> None:
    Image.new("L", (32, 24), 2).save(folder / "masks/val/field/1.png")


def colours(folder: Path) -> None:
    Image.new("RGB", (32, 24)).save(folder / "masks/train/field/1.png")


def no_mask(folder: Path) -> None:
    (folder / "masks/val/field/1.png").unlink()


def no_images(folder: Path) -> None:
    (folder / "images/val").rename(folder / "images/other")


def no_names(folder: Path) -> None:
    (folder / "classes.txt").unlink()


def one_name(folder: Path) -> None:
    (folder / "classes.txt").write_text("soil\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wrong_size, "32 x 32 pixels, its image .*1.jpg 32 x 24"),
        (unknown_class, "a pixel has class 2; 2 classes are named"),
        (colours, "its mode is RGB"),
        (no_mask, "no such mask"),
        (no_images, "no such folder"),
        (no_names, "write one per line, or set data.classes"),
        (one_name, "name 2 to 254 classes"),
    ],
)
def test_bad_data_is_one_error_that_names_the_file(folder: Path, spoil: object, message: str) -> None:
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        data.load(config(folder), 64, 3, 0)


def test_the_folder_must_be_named() -> None:
    with pytest.raises(UserError, match="data.path"):
        data.load(DataConfig(name="masks"), 64, 3, 0)
