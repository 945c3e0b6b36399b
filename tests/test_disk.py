"""Errors that mean a full or unwritable disk, and their messages."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from compress import atomic, disk
from compress.errors import UserError


def full() -> OSError:
    with pytest.raises(OSError) as caught, open("/dev/full", "wb") as file:
        file.write(b"1")
        file.flush()
    return caught.value


def wrapped(error: Exception) -> RuntimeError:
    try:
        raise RuntimeError("the exporter failed") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [full(), wrapped(full()), RuntimeError("I/O error: No space left on device (os error 28)")],
    ids=["the system's", "wrapped by a library", "quoted by a library"],
)
def test_a_full_disk(error: Exception, tmp_path: Path) -> None:
    line = disk.problem(error, tmp_path)
    assert line is not None and line.startswith(f"{tmp_path}: the disk is full: ")


def test_a_library_that_says_nothing_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("PytorchStreamWriter failed writing file")
    assert disk.problem(error, tmp_path) is None
    monkeypatch.setattr(disk, "_free", lambda path: 100)
    assert "100 are free" in str(disk.problem(error, tmp_path))
    assert disk.problem(ValueError("not of the disk"), tmp_path) is None


def test_atomic_write_tells_path_and_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        atomic.write(tmp_path / "file/below", "12345")
    assert disk.problem(caught.value, tmp_path) == (
        f"{tmp_path}/file/below: File exists: fix it; the same command continues where it stopped"
    )
    caught.value.errno = errno.ENOSPC
    assert f"{tmp_path}/file/below: the disk is full: 5 bytes were to be written" in str(
        disk.problem(caught.value, tmp_path)
    )


def test_a_copy_names_what_was_written(tmp_path: Path) -> None:
    target = tmp_path / "target"
    line = disk.problem(OSError(errno.ENOSPC, "No space left on device", "source", None, str(target)), Path("other"))
    assert line is not None and line.startswith(f"{target}: the disk is full: ")


def test_other_errors_are_not_the_disks(tmp_path: Path) -> None:
    assert disk.problem(FileNotFoundError(errno.ENOENT, "No such file", "x"), tmp_path) is None
    assert disk.problem(disk.Unwritable("told already"), tmp_path) == "told already"


def test_an_unreadable_file_of_the_user_keeps_its_own_message(tmp_path: Path) -> None:
    error = UserError("data.path", "labels/3.txt", "cannot be read")
    error.__cause__ = PermissionError(errno.EACCES, "Permission denied", "labels/3.txt")
    assert disk.problem(error, tmp_path) is None
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", str(tmp_path))
    assert "the disk is full" in (disk.problem(error, tmp_path) or "")
