"""The index of image files, which is kept between runs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.data import files, index
from compress.errors import UserError
from tests.data.conftest import write_image

OLD = 1_000_000_000_000_000_000  # nanoseconds since 1970


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(index, "FEWEST", 3)
    monkeypatch.setattr(index, "SETTLED", 0)
    for seed in range(4):
        write_image(tmp_path / f"set/{seed}.png", 8, 8, seed)
    return files.image_files(tmp_path / "set")


def read(monkeypatch: pytest.MonkeyPatch, images: list[Path]) -> tuple[list[files.ImageInfo], list[str]]:
    """Information on the images, and the names of the files that were read."""
    opened: list[str] = []
    size = files._size

    def noted(path: Path, head: bytes) -> tuple[int, int]:
        opened.append(path.name)
        return size(path, head)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_size", noted)
        infos = files.probe_all(images)
    return infos, sorted(opened)


def test_only_what_is_new_or_changed_is_read(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first, opened = read(monkeypatch, images)
    assert opened == ["0.png", "1.png", "2.png", "3.png"] and first == [files.probe(image) for image in images]
    assert read(monkeypatch, images) == (first, [])
    write_image(images[1], 16, 8, 9)
    second, opened = read(monkeypatch, images)
    assert opened == ["1.png"] and second[1][0] == (16, 8) and second[1] != first[1] and second[2:] == first[2:]


def test_a_change_that_keeps_size_and_time_is_seen(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(images[0], ns=(OLD, OLD))
    first, _ = read(monkeypatch, images)
    content = bytearray(images[0].read_bytes())
    content[-1] ^= 1  # of the last chunk's checksum: the same size and picture
    images[0].write_bytes(content)
    os.utime(images[0], ns=(OLD, OLD))
    second, opened = read(monkeypatch, images)
    assert opened == ["0.png"] and second[0] != first[0]


DAMAGE: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "cut": lambda text: text[:-20],
    "another number": lambda text: text.replace("[8,8,", "[9,8,", 1),
    "no checksum": lambda text: text.partition("\n")[2],
    "of an earlier version": lambda text: '{"0.png": [1, 2, 3, 4, 5, "x"]}',
    "deep": lambda text: index._checksum("[" * 100_000) + "\n" + "[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_made_again(images: list[Path], damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = read(monkeypatch, images)
    [path] = index.FOLDER.iterdir()
    text = path.read_text()
    assert DAMAGE[damage](text) != text
    path.write_text(DAMAGE[damage](text))
    infos, opened = read(monkeypatch, images)
    assert infos == first and len(opened) == 4
    assert read(monkeypatch, images) == (first, [])


def test_deleted_files_are_dropped_and_those_of_another_split_are_not(
    images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two splits may be lists of images of one folder."""
    monkeypatch.setattr(index, "FEWEST", 1)
    read(monkeypatch, images[:3])
    images[0].unlink()
    assert read(monkeypatch, images[3:])[1] == ["3.png"]
    [path] = index.FOLDER.iterdir()
    assert sorted(json.loads(path.read_text().partition("\n")[2])) == ["1.png", "2.png", "3.png"]


def test_an_index_that_cannot_be_written_stops_nothing(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("outputs").write_text("a file")
    assert len(read(monkeypatch, images)[0]) == 4


def test_progress_is_told_and_the_first_fault_in_order_is_named(
    images: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(index, "PROGRESS_SECONDS", -1.0)
    monkeypatch.setattr(index, "CHUNK", 2)
    with caplog.at_level(logging.INFO):
        files.probe_all(images)
    assert "reading images: 2 of 4" in caplog.text
    for image in (images[1], images[3]):
        image.write_bytes(b"")
    with pytest.raises(UserError, match=r"1\.png"):
        files.probe_all(images)
