"""Cache of image sizes and content hashes on disk, so that later runs do not read unchanged image files.

Each folder of images has one JSON file under `outputs/.cache/index/`. As in git's index, an entry is valid while the
file's size, modification time and status change time are unchanged. An index that is damaged or cannot be written is
ignored; the images are then read again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from compress import atomic
from compress.digest import digest

FOLDER = Path("outputs/.cache/index")
FEWEST = 1000  # files; for fewer an index saves no time
VERSION = 1
SETTLED = 2_000_000_000  # nanoseconds; a file modified more recently may change again with equal timestamps

ImageInfo = tuple[tuple[int, int], str]  # width and height in pixels, content hash
Stamp = tuple[int, int, int]  # size in bytes, modification and status change time in nanoseconds

log = logging.getLogger(__name__)


def stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Index:
    """The index of the common folder of `files`. Its keys are paths relative to that folder."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._entries: dict[str, list[int | str]] = {}
        self._path: Path | None = None
        self._prefix = 0  # characters of each path that name the folder
        if len(files) < FEWEST:
            return
        with suppress(ValueError):  # absolute and relative paths mixed: no index
            folder = os.path.commonpath(files)
            self._prefix = len(folder)
            self._path = FOLDER / f"{digest([VERSION, Path(folder).absolute()])[:20]}.json"
            self._entries = _read(self._path)

    def _key(self, file: Path) -> str:
        return str(file)[self._prefix :].lstrip(os.sep)

    def find(self, file: Path, stamp: Stamp) -> ImageInfo | None:
        """Returns the stored entry of the file, or None if there is none or the file has changed."""
        entry = self._entries.get(self._key(file))
        if entry is None or tuple(entry[:3]) != stamp:
            return None
        _, _, _, width, height, content = entry
        return (int(width), int(height)), str(content)

    def update(self, infos: Mapping[Path, tuple[Stamp, ImageInfo]]) -> None:
        """Adds entries, and writes the index if any of them is new."""
        if self._path is None:
            return
        latest = time.time_ns() - SETTLED
        new: dict[str, list[int | str]] = {
            self._key(file): [*stamp, *size, content]
            for file, (stamp, (size, content)) in infos.items()
            if max(stamp[1:]) < latest
        }
        if all(self._entries.get(key) == entry for key, entry in new.items()):
            return
        merged = {**self._entries, **new}
        entries = merged if len(merged) <= 2 * len(infos) else new  # drops deleted files once they are the majority
        with suppress(OSError):
            atomic.write(self._path, json.dumps(entries, separators=(",", ":")))


def _read(path: Path) -> dict[str, list[int | str]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not all(_valid(entry) for entry in entries.values()):
            raise ValueError("an invalid entry")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        log.debug("the image index %s is not usable (%s): rebuilding it", path, error)
        return {}
    return entries


def _valid(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 6
        and all(type(number) is int for number in entry[:5])
        and min(entry[3:5]) > 0
        and isinstance(entry[5], str)
        and len(entry[5]) == 64
    )
