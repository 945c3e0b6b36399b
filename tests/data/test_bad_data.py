"""Data at fault: each case is read sensibly or refused in one line that names the place. None may escape as another
exception, hang or take the machine's memory."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from compress.config import DataConfig
from compress.data import DataSet, load
from compress.errors import UserError
from tests.data.conftest import write_image

Change = Callable[[Path], object]
YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def read(data: DataSet) -> None:
    """Every image and label, as a run would."""
    for split in (data.train, data.calibration, data.validation):
        for index in range(len(split)):
            image, target = split.image(index), split.target(index)
            assert image.shape == (32, 32, 3) and image.dtype == np.uint8
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


def bomb(folder: Path) -> None:
    """A PNG of 200 bytes that says it is 50000x50000."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    (folder / "images/train/3.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def truncated_jpeg(folder: Path) -> None:
    write_image(folder / "images/train/x.jpg", 64, 64)
    whole = (folder / "images/train/x.jpg").read_bytes()
    (folder / "images/train/x.jpg").write_bytes(whole[: len(whole) // 2])


def linked(target: str, place: str = "images/train/link.png") -> Change:
    return lambda folder: (folder / place).symlink_to(target)


def unreadable(folder: Path) -> None:
    (folder / "images/train/3.png").chmod(0)
    if os.access(folder / "images/train/3.png", os.R_OK):
        pytest.skip("root reads everything")


def deep(folder: Path) -> None:
    write_image(folder / "images/train" / Path(*["d" * 200] * 4) / "x.png")


def sixteen_bits(folder: Path) -> None:
    assert cv2.imwrite(str(folder / "images/train/3.png"), np.full((32, 64, 3), 40000, np.uint16))


def only(folder: Path, count: int, split: str = "train") -> None:
    for path in sorted((folder / "images" / split).iterdir())[count:]:
        path.unlink()


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
RECURSIVE = "train: images/train\nval: images/val\nnames: &n [cat, *n]\n"

REFUSED: dict[str, tuple[Change, str]] = {
    "truncated jpeg": (truncated_jpeg, "x.jpg"),
    "zero bytes": (put("images/train/3.png", b""), "3.png"),
    "text as image": (put("images/train/3.png", "hello"), "3.png"),
    "header only": (put("images/train/3.png", b"\x89PNG\r\n\x1a\n"), "3.png"),
    "html as jpg": (put("images/train/x.jpg", "<html>404</html>"), "x.jpg"),
    "folder named x.jpg": (lambda f: (f / "images/train/x.jpg").mkdir(), "x.jpg"),
    "broken link": (linked("nowhere.png"), "link.png"),
    "link to itself": (linked("link.png"), "link.png"),
    "no permission": (unreadable, "3.png"),
    "decompression bomb": (bomb, "3.png"),
    "fifo": (lambda f: os.mkfifo(f / "images/train/x.png"), "x.png"),
    "label nan": (label("0 nan 0.5 0.1 0.1\n"), "3.txt:1"),
    "label inf": (label("0 0.5 inf 0.1 0.1\n"), "3.txt:1"),
    "label 1e400": (label("0 0.5 0.5 1e400 0.1\n"), "3.txt:1"),
    "label class nan": (label("nan 0.5 0.5 0.1 0.1\n"), "3.txt:1"),
    "label class inf": (label("inf 0.5 0.5 0.1 0.1\n"), "3.txt:1"),
    "label negative class": (label("-1 0.5 0.5 0.1 0.1\n"), "3.txt:1"),
    "label class 1.5": (label("1.5 0.5 0.5 0.1 0.1\n"), "3.txt:1"),
    "label class too large": (label("7 0.5 0.5 0.1 0.1\n"), "3.txt:1"),
    "label in pixels": (label("0 30 12 10 10\n"), "3.txt:1"),
    "label negative size": (label("0 0.5 0.5 -0.1 0.1\n"), "3.txt:1"),
    "label four columns": (label("0 0.5 0.5 0.1\n"), "3.txt:1"),
    "label commas": (label("0,0.5,0.5,0.1,0.1\n"), "3.txt:1"),
    "label words": (label("cat 0.5 0.5 0.1 0.1\n"), "3.txt:1"),
    "label binary": (label(bytes(range(256))), "3.txt"),
    "label long line": (label("0 " + "0.5 " * 2_500_000), "3.txt"),
    "label is a folder": (
        lambda f: ((f / "labels/train/3.txt").unlink(), (f / "labels/train/3.txt").mkdir()),
        "3.txt",
    ),
    "label utf-16": (label("0 0.5 0.5 0.1 0.1\n".encode("utf-16")), "3.txt"),
    "names number": (text("train: images/train\nval: images/val\nnames: 5\n"), "names"),
    "names word": (text("train: images/train\nval: images/val\nnames: cat\n"), "names"),
    "names dicts": (text("train: images/train\nval: images/val\nnames: [{a: 1}, {b: 2}]\n"), "names"),
    "names twice": (text("train: images/train\nval: images/val\nnames: [cat, cat]\n"), "names"),
    "names empty": (text("train: images/train\nval: images/val\nnames: ['', dog]\n"), "names"),
    "names null": (text("train: images/train\nval: images/val\nnames: [null, dog]\n"), "names"),
    "names nested": (text("train: images/train\nval: images/val\nnames: [[a], [b]]\n"), "names"),
    "names none": (text("train: images/train\nval: images/val\nnames: []\n"), "names"),
    "names with gaps": (text("train: images/train\nval: images/val\nnames: {0: a, 5: b}\n"), "names"),
    "names recursive": (text(RECURSIVE), "names"),
    "nc word": (text(YAML + "nc: many\n"), "nc"),
    "billion laughs": (text(LAUGHS + "train: *m\nval: *m\nnames: *m\n"), "data.yaml"),
    "billion laughs in train": (text(LAUGHS + "train: *m\nval: images/val\nnames: [cat, dog]\n"), "train"),
    "billion laughs as path": (text(LAUGHS + "path: *m\n" + YAML), "path"),
    "billion laughs as nc": (text(LAUGHS + "nc: *m\n" + YAML), "nc"),
    "yaml tag": (text("!!python/object/apply:os.system ['true']\n"), "data.yaml"),
    "yaml binary": (text(bytes(range(256))), "data.yaml"),
    "yaml empty": (text(""), "data.yaml"),
    "yaml list": (text("[1, 2]\n"), "data.yaml"),
    "yaml deep": (text("[" * 100_000), "data.yaml"),
    "train is a dict": (text("train: {a: 1}\nval: images/val\nnames: [a, b]\n"), "train"),
    "train is a number": (text("train: 5\nval: images/val\nnames: [a, b]\n"), "train"),
    "train is an image": (text("train: images/train/0.png\nval: images/val\nnames: [a, b]\n"), "train"),
    "train has a NUL": (text('train: "a\\0b"\nval: images/val\nnames: [a, b]\n'), "train"),
    "train too long": (text(f"train: {'x' * 5000}\nval: images/val\nnames: [a, b]\n"), "train"),
    "path is a list": (text("path: [a]\n" + YAML), "path"),
    "train and val alike": (text("train: images/val\nval: images/val\nnames: [cat, dog]\n"), "overlap"),
    "train twice": (text("train: images\nval: images/val\nnames: [cat, dog]\n"), "overlap"),
    "list of nothing": (
        lambda f: (text("train: t.txt\nval: images/val\nnames: [a, b]\n")(f), put("t.txt", "")(f)),
        "t",
    ),
    "list binary": (
        lambda f: (text("train: t.txt\nval: images/val\nnames: [a, b]\n")(f), put("t.txt", bytes(range(256)))(f)),
        "t.txt",
    ),
    "list of folders": (
        lambda f: (text("train: t.txt\nval: images/val\nnames: [a, b]\n")(f), put("t.txt", "images/train\n")(f)),
        "t.txt:1",
    ),
    "calibration binary": (put("calibration.txt", b"\xff\xfe\x00"), "calibration.txt"),
    "calibration of val": (put("calibration.txt", "images/val/0.png\n"), "overlap"),
    "yaml is a folder": (lambda f: ((f / "data.yaml").unlink(), (f / "data.yaml").mkdir()), "data.yaml"),
    "val empty": (lambda f: only(f, 0, "val"), "val"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_that_names_the_place(case: str, yolo_folder: Path) -> None:
    assert_refused(*REFUSED[case], yolo_folder, open_yolo)


READ: dict[str, Change] = {
    "label empty": label(""),
    "label windows": label("0 0.5 0.5 0.1 0.1\r\n1 0.5 0.5 0.2 0.2\r\n"),
    "label byte order mark": label("\ufeff0 0.5 0.5 0.1 0.1\n"),
    "label absent": lambda f: (f / "labels/train/3.txt").unlink(),
    "yaml byte order mark": text("\ufeff" + YAML),
    "yaml windows": text(YAML.replace("\n", "\r\n")),
    "grey": picture("L"),
    "alpha": picture("RGBA"),
    "grey and alpha": picture("LA"),
    "palette": picture("P"),
    "black and white": picture("1"),
    "16 bits": sixteen_bits,
    "16 bits grey": picture("I;16"),
    "cmyk": picture("CMYK", name="x.jpg"),
    "1x1": picture("RGB", (1, 1)),
    "1 high": picture("RGB", (2000, 1)),
    "spaces and unicode": lambda f: write_image(f / "images/train/Ähre 麦 no 1.png"),
    "deep folders": deep,
    "upper case suffix": lambda f: write_image(f / "images/train/X.PNG"),
    "link to a copy elsewhere": lambda f: (
        write_image(f / "else/x.png"),
        (f / "images/train/l.png").symlink_to(f / "else/x.png"),
    ),
    "loop of folders": lambda f: (f / "images/train/loop").symlink_to(f / "images/train"),
    "one training image": lambda f: only(f, 1),
    "absolute list": lambda f: (
        put("t.txt", "".join(f"{f}/images/train/{i}.png\n" for i in range(5)))(f),
        text("train: t.txt\nval: images/val\nnames: [cat, dog]\n")(f),
    ),
    "list with a byte order mark": lambda f: (
        put("t.txt", "\ufeffimages/train/0.png\r\nimages/train/1.png\r\n")(f),
        text("train: t.txt\nval: images/val\nnames: [cat, dog]\n")(f),
    ),
}


@pytest.mark.parametrize("case", READ)
def test_read_as_it_should_be(case: str, yolo_folder: Path) -> None:
    READ[case](yolo_folder)
    open_yolo(yolo_folder)


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    seed = 0
    for split, name, count in (("train", "a", 5), ("train", "b", 5), ("val", "a", 2), ("val", "b", 2)):
        for i in range(count):
            write_image(tmp_path / split / name / f"{i}.png", 8, 8, seed := seed + 1)
    return tmp_path


FOLDERS: dict[str, tuple[Change, str]] = {
    "train is a file": (lambda f: (shutil.rmtree(f / "train"), put("train", "x")(f)), "train"),
    "val is a file": (lambda f: (shutil.rmtree(f / "val"), put("val", "x")(f)), "val"),
    "no val": (lambda f: shutil.rmtree(f / "val"), "val"),
    "a class without images": (lambda f: (f / "train/c").mkdir(), "train/c"),
    "an unknown class": (lambda f: write_image(f / "val/z/0.png"), "val/z"),
    "no class folders": (lambda f: (shutil.rmtree(f / "train"), write_image(f / "train/0.png")), "train"),
    "a file as class": (lambda f: put("val/a/0.png", "x")(f), "0.png"),
    "train linked as val": (lambda f: (shutil.rmtree(f / "val"), (f / "val").symlink_to(f / "train")), "overlap"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_class_folders_at_fault(case: str, class_folder: Path) -> None:
    assert_refused(*FOLDERS[case], class_folder, open_folder)


@pytest.mark.parametrize("case", ["a class that val lacks", "one class"])
def test_class_folders_that_can_be_read(case: str, class_folder: Path) -> None:
    shutil.rmtree(class_folder / "val/b")
    if case == "one class":
        shutil.rmtree(class_folder / "train/b")
    open_folder(class_folder)


def test_a_path_of_the_wrong_kind(yolo_folder: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read(load(DataConfig(name="yolo", path=str(yolo_folder)), 32, 3, 0))
    with pytest.raises(UserError, match=r"data\.yaml"):
        open_folder(yolo_folder / "data.yaml")
