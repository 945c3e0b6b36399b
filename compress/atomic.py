"""Files that are whole or absent: a reader, or a machine that dies, never sees half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path


def write(path: Path, data: bytes | str) -> Path:
    """Write beside `path`, to the disk, then rename; its folder is made. Raises OSError, leaving what was there;
    its `needed` and `free` are bytes, which compress/disk.py tells where a disk is full."""
    data = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)  # mkstemp's 0600 would keep colleagues from reading a shared run
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        error.filename, error.needed = str(path), len(data)  # type: ignore[attr-defined]
        with suppress(OSError):
            error.free = shutil.disk_usage(path.parent).free  # type: ignore[attr-defined]
        raise
    return path
