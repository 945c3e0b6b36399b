"""What was found in image files, remembered between runs, so that a second start reads no file contents.

One JSON file a folder of images under `outputs/.cache/index/`. An entry holds as long as the file's size, time of last
change and time of last status change are the same, as in git's index. A damaged index, or one that cannot be written,
costs time and nothing else.
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
FEWEST = 1000  # files; fewer are read as quickly as an index
VERSION = 1
SETTLED = 2_000_000_000  # nanoseconds; a file changed just now may change again within one tick of the clock

Found = tuple[tuple[int, int], str]  # width and height in pixels, content hash
Stamp = tuple[int, int, int]  # size in bytes, nanoseconds of last change and last status change

log = logging.getLogger(__name__)


def stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Index:
    """The index of the folder that holds all of `files`. Its entries are named by paths within that folder."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._entries: dict[str, list[int | str]] = {}
        self._path: Path | None = None
        self._skipped = 0  # characters of every path that the folder takes
        if len(files) < FEWEST:
            return
        with suppress(ValueError):  # some absolute, some relative: no index
            folder = os.path.commonpath(files)
            self._skipped = len(folder)
            self._path = FOLDER / f"{digest([VERSION, Path(folder).absolute()])[:20]}.json"
            self._entries = _read(self._path)

    def _name(self, file: Path) -> str:
        return str(file)[self._skipped :].lstrip(os.sep)

    def find(self, file: Path, stamp: Stamp) -> Found | None:
        """What was found in the file earlier; None where it is unknown or has changed."""
        entry = self._entries.get(self._name(file))
        if entry is None or tuple(entry[:3]) != stamp:
            return None
        _, _, _, width, height, content = entry
        return (int(width), int(height)), str(content)

    def keep(self, found: Mapping[Path, tuple[Stamp, Found]]) -> None:
        """Adds what was found in files, and writes the index where that is new."""
        if self._path is None:
            return
        newest = time.time_ns() - SETTLED
        new: dict[str, list[int | str]] = {
            self._name(file): [*stamp, *size, content]
            for file, (stamp, (size, content)) in found.items()
            if max(stamp[1:]) < newest
        }
        if all(self._entries.get(name) == entry for name, entry in new.items()):
            return
        merged = {**self._entries, **new}
        kept = merged if len(merged) <= 2 * len(found) else new  # files that went away are dropped sooner or later
        with suppress(OSError):
            atomic.write(self._path, json.dumps(kept, separators=(",", ":")))


def _read(path: Path) -> dict[str, list[int | str]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not all(_sound(entry) for entry in entries.values()):
            raise ValueError("an entry of the wrong form")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        log.debug("the index of images %s is not usable (%s): it is made again", path, error)
        return {}
    return entries


def _sound(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 6
        and all(type(number) is int for number in entry[:5])
        and min(entry[3:5]) > 0
        and isinstance(entry[5], str)
        and len(entry[5]) == 64
    )
