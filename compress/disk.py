"""One-line messages for file system errors: the path, the bytes to write, the bytes free."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from compress.errors import UserError, chain

FULL = (errno.ENOSPC, errno.EDQUOT)
OTHER = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EMFILE)
NEARLY_FULL = 32 * 1024  # bytes: if a library only reports a failed write, the disk was full


class Unwritable(OSError):
    """A file system error with its one-line message, composed when it occurred: cleaning up frees space afterwards."""


def problem(error: BaseException, folder: Path) -> str | None:
    """The message for an error that the file system caused, otherwise None. `folder` was being written; it is named for
    errors without a path. Libraries wrap the system's error or only quote its text, so all causes are searched."""
    for each in chain(error):
        if isinstance(each, Unwritable):
            return str(each)
        named = getattr(each, "filename2", None) or getattr(each, "filename", None)  # a copy names its source first
        path, text = named or folder, str(each)
        code = each.errno if isinstance(each, OSError) else None
        if code in FULL or "No space left on device" in text or "os error 28" in text:
            return _full(Path(path), getattr(each, "needed", None), getattr(each, "free", None))
        if code in OTHER and not isinstance(error, UserError):  # its own remedy is better
            return f"{path}: {os.strerror(code or 0)}: fix it; the same command continues where it stopped"
    writing = isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError"
    return _full(folder) if writing and _free(folder) < NEARLY_FULL else None


def _full(path: Path, needed: int | None = None, free: int | None = None) -> str:
    free = _free(path) if free is None else free
    size = f"{needed:,} bytes were to be written, " if needed is not None else ""
    return f"{path}: the disk is full: {size}{free:,} are free. The same command continues where it stopped"


def _free(path: Path) -> int:
    place = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    return shutil.disk_usage(place).free
