"""Image files: size and content hash without decoding, and splits that overlap."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from compress.data import files
from compress.data.sample import Sample
from compress.errors import UserError
from tests.data.conftest import write_image
from tests.data.faults import Change, assert_refused, in_turn, linked, open_yolo, picture, put


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


def unreadable(folder: Path) -> None:
    (folder / "images/train/3.png").chmod(0)
    if os.access(folder / "images/train/3.png", os.R_OK):
        pytest.skip("root reads everything")


def deep(folder: Path) -> None:
    write_image(folder / "images/train" / Path(*["d" * 200] * 4) / "x.png")


def sixteen_bits(folder: Path) -> None:
    assert cv2.imwrite(str(folder / "images/train/3.png"), np.full((32, 64, 3), 40000, np.uint16))


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
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_that_names_the_place(case: str, yolo_folder: Path) -> None:
    assert_refused(*REFUSED[case], yolo_folder, open_yolo)


READ: dict[str, Change] = {
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
    "link to a copy elsewhere": in_turn(
        lambda f: write_image(f / "else/x.png"), lambda f: (f / "images/train/l.png").symlink_to(f / "else/x.png")
    ),
    "loop of folders": lambda f: (f / "images/train/loop").symlink_to(f / "images/train"),
}


@pytest.mark.parametrize("case", READ)
def test_read_as_it_should_be(case: str, yolo_folder: Path) -> None:
    READ[case](yolo_folder)
    open_yolo(yolo_folder)


def test_images_are_listed_by_the_parts_of_their_paths(tmp_path: Path) -> None:
    """As text, `a-b/0.png` would stand before `a/0.png`."""
    for name in ("b.jpg", "a-b/0.png", "a/0.png", "a/1.PNG", "a/notes.txt", "a/0.png.bak"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    result = [path.relative_to(tmp_path).as_posix() for path in files.image_files(tmp_path)]
    assert result == ["a/0.png", "a/1.PNG", "a-b/0.png", "b.jpg"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_size_is_that_of_the_decoded_image(orientation: int, suffix: str, tmp_path: Path) -> None:
    """Of a photograph that was taken upright, too."""
    exif = Image.Exif()
    exif[files.ORIENTATION] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    decoded = cv2.imread(str(path))
    assert decoded is not None
    assert files.probe(path)[0] == decoded.shape[1::-1] == ((20, 30) if orientation >= 5 else (30, 20))


def test_a_directory_at_the_end_of_a_large_file_is_found(tmp_path: Path) -> None:
    """libtiff writes it behind the pixels."""
    write_image(tmp_path / "x.tif", 300, 200)
    assert int.from_bytes((tmp_path / "x.tif").read_bytes()[4:8], "little") > files.HEAD  # where it is
    assert files.probe(tmp_path / "x.tif")[0] == (300, 200)


def test_the_hash_is_of_the_length_and_the_first_bytes(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 200, 200)
    content = (tmp_path / "a.png").read_bytes()
    assert len(content) > files.HEAD
    (tmp_path / "same.png").write_bytes(content)
    (tmp_path / "longer.png").write_bytes(content + b"x")
    (tmp_path / "else.png").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # behind what is read
    digest = {path.stem: files.probe(path)[1] for path in tmp_path.iterdir()}
    assert digest["a"] == digest["same"] == digest["else"] != digest["longer"]


def sample(path: Path, digest: str = "d") -> Sample:
    return Sample(path, 0, (1, 1), digest)


def test_images_that_only_hash_alike_do_not_overlap(tmp_path: Path) -> None:
    one, other, copied = tmp_path / "one.png", tmp_path / "other.png", tmp_path / "copied.png"
    one.write_text("one")
    other.write_text("two")
    copied.write_text("one")
    files.check_disjoint([sample(one)], {"validation": [sample(other)]})
    with pytest.raises(
        UserError, match=r"^data\.test=.*copied\.png: is also .* \(.*one\.png\): splits must not overlap"
    ):
        files.check_disjoint([sample(one)], {"validation": [], "test": [sample(other, "e"), sample(copied)]})


def test_an_image_in_memory_is_named_by_its_place_and_size_and_not_by_its_pixels() -> None:
    given = Sample(np.zeros((4, 6), np.uint8), 0, (6, 4), "d")
    with pytest.raises(UserError) as caught:
        files.check_disjoint([given], {"validation": [Sample(given.source, 0, (6, 4), "e"), given]})
    assert str(caught.value).startswith("data.validation=image 1, an array of 6x4 pixels: is also a training or")
    assert "(an array of 6x4 pixels)" in str(caught.value)


def test_two_splits_for_evaluation_may_share_images(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    files.check_disjoint([], {"validation": [sample(path)], "test": [sample(path)]})


def test_a_fingerprint_is_that_of_the_data_and_not_of_its_folder() -> None:
    def of(folder: str = "a", name: str = "0.png", label: object = 0, split: str = "train", classes: str = "ab") -> str:
        return files.fingerprint(classes, {split: [Sample(Path(folder, name), label, (1, 1), "d")], "validation": []})

    assert of() == of(folder="b")
    boxes = np.array([[0, 0.5, 0.5, 0.1, 0.1]], np.float32)
    other = [of(name="1.png"), of(label=1), of(split="test"), of(classes="abc"), of(label=boxes), of(label=boxes * 2)]
    assert len({of(), *other}) == 7


def test_a_fingerprint_does_not_depend_on_the_order_of_the_splits() -> None:
    splits = {name: [Sample(np.full((2, 2), index, np.uint8), 0)] for index, name in enumerate(("train", "validation"))}
    assert files.fingerprint("ab", splits) == files.fingerprint("ab", dict(reversed(splits.items())))
