"""Pascal VOC's XML format."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.config import DataConfig
from compress.data import DataSet, index, load, voc
from compress.errors import UserError
from tests.data.conftest import write_image
from tests.data.faults import read

BOX = "<bndbox><xmin>17</xmin><ymin>9</ymin><xmax>48</xmax><ymax>24</ymax></bndbox>"


def xml(*objects: str, size: str = "<size><width>64</width><height>32</height></size>") -> str:
    found = "".join(f"<object>{each}</object>" for each in objects)
    return f"<annotation><filename>x</filename>{size}{found}</annotation>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 training and 4 validation images of 64x32 pixels with a box each."""
    for part in ("Annotations", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    for split, first, count in (("train", 0, 12), ("val", 20, 4)):
        for number in range(first, first + count):
            write_image(tmp_path / f"JPEGImages/{number}.png", 64, 32, number)
            name = ("cat", "dog")[number % 2]
            (tmp_path / f"Annotations/{number}.xml").write_text(xml(f"<name>{name}</name>{BOX}"))
        names = "".join(f"{number}  1\n" for number in range(first, first + count))
        (tmp_path / f"ImageSets/Main/{split}.txt").write_text(names + "\n")
    return tmp_path


def open_voc(folder: Path, imgsz: int = 64, **options: Any) -> DataSet:
    return load(DataConfig(name="voc", path=str(folder), calibration_images=3, **options), imgsz, 3, 0)


def test_pixels_are_counted_from_1_and_the_last_is_included(folder: Path) -> None:
    data = open_voc(folder)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.calibration), len(data.validation)) == (9, 3, 4)
    np.testing.assert_allclose(data.validation.target(0), [[0, 16, 24, 48, 40]])
    np.testing.assert_allclose(data.validation.target(1), [[1, 16, 24, 48, 40]])
    read(open_voc(folder, 32))


def test_folders_with_the_xml_beside_the_image(folder: Path) -> None:
    before = open_voc(folder)
    for split, numbers in (("train", range(12)), ("valid", range(20, 24))):
        (folder / split).mkdir()
        for number in numbers:
            shutil.move(folder / f"JPEGImages/{number}.png", folder / split)
            shutil.move(folder / f"Annotations/{number}.xml", folder / split)
    shutil.rmtree(folder / "ImageSets")
    after = open_voc(folder)
    assert len(after.train) == 9 and len(after.validation) == 4
    np.testing.assert_array_equal(after.validation.target(1), before.validation.target(1))


def test_classes_may_be_named(folder: Path) -> None:
    data = open_voc(folder, classes=["dog", "cow", "cat"])
    assert data.classes == ("dog", "cow", "cat") and data.validation.target(0)[0, 0] == 2
    with pytest.raises(UserError, match=r"^data\.classes=\['dog'\]: .*the class 'cat': add it"):
        open_voc(folder, classes=["dog"])
    with pytest.raises(UserError, match=r"^data\.classes=.*must be unique"):
        open_voc(folder, classes=["dog", "cat", "dog"])


def test_difficult_objects_and_boxes_without_area_are_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    outside = BOX.replace("17", "-5").replace("9<", "-99<", 1)
    (folder / "Annotations/21.xml").write_text(
        xml(
            f"<name>dog</name>{BOX}<difficult>1</difficult>",
            f"<name>cat</name>{outside}<difficult>0</difficult><truncated>1</truncated>",
            f"<name>dog</name>{BOX.replace('17', '49')}",
        )
    )
    (folder / "Annotations/22.xml").write_text(xml())
    with caplog.at_level(logging.WARNING):
        data = open_voc(folder)
    assert "1 difficult objects and 1 boxes without area are left out" in caplog.text
    labels = [sample.label for sample in data.validation.samples]
    assert [len(label) for label in labels] == [1, 1, 0, 1]
    np.testing.assert_allclose(labels[1], [[0, 0.375, 0.375, 0.75, 0.75]])


def test_without_train_and_with_test(folder: Path) -> None:
    (folder / "ImageSets/Main/train.txt").rename(folder / "ImageSets/Main/test.txt")
    assert open_voc(folder).extra == {}
    data = open_voc(folder, test=True)
    assert (len(data.train), len(data.extra["test"])) == (0, 12)


def test_unchanged_files_are_not_parsed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(index, "FEWEST", 3)
    monkeypatch.setattr(index, "SETTLED", 0)
    before = open_voc(folder)
    monkeypatch.setattr(voc, "parse", None)
    assert open_voc(folder).fingerprint == before.fingerprint


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {n} "{f"&{p};" * 10}">' for p, n in zip("abcdefghi", "bcdefghij", strict=True))
    + "]><annotation><object><name>&j;</name></object></annotation>"
)
FILE = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name></object></annotation>'
)

FAULTS: dict[str, tuple[bytes | str, str]] = {
    "entities": (LAUGHS, "it has a document type"),
    "entities in UTF-16": (LAUGHS.encode("utf-16"), "it has a document type"),
    "a file as entity": (FILE, "it has a document type"),
    "undeclared entity": (xml("<name>&x;</name>"), "undefined entity"),
    "empty": ("", "no element found"),
    "cut": (xml(f"<name>cat</name>{BOX}")[:-20], "not a valid Pascal VOC file"),
    "no XML": ("hello", "not a valid Pascal VOC file"),
    "no text": (b"<annotation>\xff\xfe</annotation>", "not a valid Pascal VOC file"),
    "unknown encoding": ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not a valid Pascal VOC file"),
    "another element": ("<svg></svg>", "its element is 'svg', expected 'annotation'"),
    "no name": (xml(BOX), "object 0 has no name"),
    "no box": (xml("<name>cat</name>"), "object 0, cat: its bndbox is [None, None, None, None]"),
    "words": (xml(f"<name>cat</name>{BOX.replace('17', 'left')}"), "expected four numbers"),
    "NaN": (xml(f"<name>cat</name>{BOX.replace('17', 'nan')}"), "expected four numbers"),
    "infinite size": (xml(size="<size><width>inf</width><height>3</height></size>"), "not a valid Pascal VOC file"),
    "turned": (xml(size="<size><width>32</width><height>64</height></size>"), "size=32x64: the image has 64x32 pixels"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_file_at_fault_is_named(case: str, folder: Path) -> None:
    text, says = FAULTS[case]
    (folder / "Annotations/21.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        open_voc(folder)
    assert "21.xml" in str(caught.value) and says in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def no_objects(folder: Path) -> None:
    for file in (folder / "Annotations").iterdir():
        file.write_text(xml())


def two_images(folder: Path) -> None:
    for number in (20, 22):
        (folder / f"JPEGImages/{number}.png").unlink()


MISSING: dict[str, tuple[Callable[[Path], object], str]] = {
    "no annotation": (lambda f: (f / "Annotations/21.xml").unlink(), "21.xml: no such file"),
    "no image": (lambda f: (f / "JPEGImages/21.png").unlink(), "val.txt=21: no such image"),
    "two images": (two_images, "(2 of 4 are missing)"),
    "no list": (lambda f: (f / "ImageSets/Main/val.txt").unlink(), "neither ImageSets/Main/val.txt nor a folder"),
    "list of bytes": (
        lambda f: (f / "ImageSets/Main/val.txt").write_bytes(b"\xff"),
        "the list of images cannot be read",
    ),
    "no folders": (lambda f: shutil.rmtree(f / "ImageSets"), "neither ImageSets/Main/val.txt nor a folder"),
    "no objects": (no_objects, "no image has an object"),
    "no folder": (shutil.rmtree, "set data.path to the folder"),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_named(case: str, folder: Path) -> None:
    remove, says = MISSING[case]
    remove(folder)
    with pytest.raises(UserError) as caught:
        open_voc(folder)
    assert says in str(caught.value) and str(folder) in str(caught.value)
