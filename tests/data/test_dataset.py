from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.config import DataConfig
from compress.data import Sample, Split, load
from compress.data.dataset import letterbox
from compress.data.files import HEAD, ORIENTATION, probe
from compress.data.sample import NO_LABEL, Answer
from compress.errors import UserError
from compress.tasks import CLASSIFY, DETECT


@pytest.mark.parametrize(("height", "width"), [(40, 100), (100, 40), (31, 32), (500, 500), (1, 300)])
def test_the_letterbox_keeps_the_ratio_and_centres(height: int, width: int) -> None:
    boxed = letterbox(np.full((height, width, 3), 255, np.uint8), 64)
    ys, xs = np.nonzero((boxed == 255).all(axis=2))
    scale = 64 / max(height, width)
    assert (np.ptp(ys) + 1, np.ptp(xs) + 1) == (max(1, round(height * scale)), max(1, round(width * scale)))
    assert abs(ys.min() - (63 - ys.max())) <= 1 and abs(xs.min() - (63 - xs.max())) <= 1
    assert set(np.unique(boxed)) <= {114, 255}


def test_grey_and_colour() -> None:
    grey, colour = np.full((8, 8), 7, np.uint8), np.zeros((8, 8, 3), np.uint8)
    samples = [Sample(grey, 1, (8, 8))]
    assert Split("s", samples, 8, 1, CLASSIFY).image(0).shape == (8, 8, 1)
    assert (Split("s", samples, 16, 3, CLASSIFY).image(0) == 7).all() and Split("s", samples, 16, 3, CLASSIFY).image(
        0
    ).shape == (
        16,
        16,
        3,
    )
    assert Split("s", [Sample(colour, 1, (8, 8))], 16, 3, CLASSIFY).image(0).shape == (16, 16, 3)
    assert Split("s", samples, 8, 1, CLASSIFY).target(0) == 1
    red = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    image = Split("s", [Sample(red, 1, (8, 8))], 8, 1, CLASSIFY).image(0)
    assert image.shape == (8, 8, 1) and (image == 76).all()  # 0.299 x 255


def test_files_are_read_as_rgb_and_upright(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (40, 20), (200, 30, 10)).save(path, exif=exif)
    size, _ = probe(path)
    assert size == (20, 40)  # as decoded, turned upright
    image = Split("s", [Sample(path, 0, size)], 40, 3, CLASSIFY).image(0)
    np.testing.assert_allclose(image[20, 20], (200, 30, 10), atol=4)
    assert (image[:, :9] == 114).all() and (image[:, 31:] == 114).all()


def test_files_longer_than_their_head_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)).save(path)
    assert path.stat().st_size > HEAD and probe(path)[0] == (300, 200)


def test_unknown_names_and_channels_are_refused() -> None:
    with pytest.raises(
        UserError,
        match="coco, digits, fashion_mnist, field_scenes, image_folder, images, masks, module, none, tree_crowns, voc",
    ):
        load(DataConfig(name="cocoa"), 32, 3, 0)
    with pytest.raises(UserError, match=r"model\.channels=4"):
        load(DataConfig(name="digits"), 32, 4, 0)


def test_labels_of_any_data_set_can_be_withheld() -> None:
    bare = load(DataConfig(name="digits", labels=False, validation_images=20), 8, 1, 0)
    assert {sample.label for split in (bare.train, bare.validation) for sample in split.samples} == {NO_LABEL}
    assert len(bare.validation) == 20 and not bare.calibration.labelled
    assert bare.fingerprint != load(DataConfig(name="digits"), 8, 1, 0).fingerprint


def test_an_answer_is_already_in_the_coordinates_of_the_input() -> None:
    boxes = np.array([[1, 2, 3, 4, 5]], np.float32)
    split = Split("validation", [Sample(Path("x.png"), Answer(boxes), (200, 100))], 64, 3, DETECT)
    assert split.labelled and split.target(0) is boxes
