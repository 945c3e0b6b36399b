"""Atomic file writes: after a crash a file is complete or absent, never partial."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")  # names of the temporary files of `write`


def write(path: Path, data: bytes | str) -> Path:
    """Writes a temporary file beside `path`, syncs it to the disk and renames it. Creates the folder. After an OSError
    the old file is unchanged; its attributes `needed` and `free` hold bytes, for `compress.disk.problem`."""
    data = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)  # mkstemp's 0600 would hide a shared run from other users
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        error.filename, error.needed = str(path), len(data)  # type: ignore[attr-defined]
        with suppress(OSError):
            error.free = shutil.disk_usage(path.parent).free  # type: ignore[attr-defined]
        raise
    return path


def remove_leftovers(folder: Path) -> None:
    """Deletes temporary files below `folder`, which a killed process left. No other process may be writing there."""
    for path in folder.rglob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink()
