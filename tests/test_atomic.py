from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from compress import atomic


def test_text_and_bytes_replace_the_file_and_folders_are_created(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.json"
    assert atomic.write(path, "first, ü") == path and path.read_text(encoding="utf-8") == "first, ü"
    atomic.write(path, b"\x00second")
    assert path.read_bytes() == b"\x00second"
    assert [each.name for each in path.parent.iterdir()] == ["file.json"]


def test_other_users_can_read_the_file(tmp_path: Path) -> None:
    assert stat.S_IMODE(atomic.write(tmp_path / "file", "x").stat().st_mode) == 0o644


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = atomic.write(tmp_path / "file", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        atomic.write(path, "newer")
    assert caught.value.filename == str(path) and vars(caught.value)["needed"] == 5
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    for name in (".lock", ".keep.me", ".scratch", "file.json", "a/ends.with_8xx"):
        (tmp_path / name).write_text("kept")
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", lambda *_: None)  # it dies before the file is renamed
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        atomic.write(tmp_path / "a" / "file.json", "half")
    assert len(list(tmp_path.glob("a/.*"))) == 1
    atomic.remove_leftovers(tmp_path)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert names == [".keep.me", ".lock", ".scratch", "a/ends.with_8xx", "file.json"]
