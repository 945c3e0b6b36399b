"""Reads many small files in parallel and keeps what was read on disk, so that later runs do not open unchanged files.

Each folder has one file under `outputs/.cache/index/` for each kind of content: a SHA-256, and a JSON object from
relative paths to results. As in git's index, an entry is valid while the file's size, modification time and status
change time are unchanged. An index that is damaged or cannot be written is ignored; the files are then read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from compress import atomic
from compress.digest import digest

FOLDER = Path("outputs/.cache/index")
FEWEST = 1000  # files; for fewer an index saves no time
VERSION = 2
SETTLED = 2_000_000_000  # nanoseconds; a file modified more recently may change again with equal timestamps
CHUNK = 100  # files
THREADS = 8  # on network disks most of the time is latency
PROGRESS_SECONDS = 5.0

Stamp = tuple[int, int, int]  # size in bytes, modification and status change time in nanoseconds
Read = Callable[[Path, os.stat_result | None], Any]
Name = str | Path  # strings take a tenth of the time to make

log = logging.getLogger(__name__)


def read_all(files: Sequence[Name], kind: str, read: Read) -> list[Any]:
    """Returns `read(file, status)` for every file, from the index where the file is unchanged.

    Progress is logged every few seconds.

    Args:
        kind: what `read` returns, with everything that it depends on besides the file. Names the index.
        read: returns a JSON value; `status` is None if there is no such file.

    Raises:
        Whatever `read` raises, for the first such file in order.
    """
    index = Index(files, kind)

    def read_chunk(chunk: Sequence[Name]) -> list[tuple[Stamp | None, Any]]:
        return [_read_one(file, index, read) for file in chunk]

    results: list[Any] = []
    new: dict[Name, tuple[Stamp, Any]] = {}
    last_log = time.monotonic()
    chunks = [files[first : first + CHUNK] for first in range(0, len(files), CHUNK)]
    with ThreadPoolExecutor(THREADS) as threads:
        try:
            for chunk, pairs in zip(chunks, threads.map(read_chunk, chunks), strict=True):
                results += [result for _, result in pairs]
                new |= {file: (stamp, result) for file, (stamp, result) in zip(chunk, pairs, strict=True) if stamp}
                if time.monotonic() - last_log > PROGRESS_SECONDS:
                    last_log = time.monotonic()
                    log.info("reading %s: %s of %s", kind, f"{len(results):,}", f"{len(files):,}")
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    index.update(new, files)
    return results


def _read_one(file: Name, index: Index, read: Read) -> tuple[Stamp | None, Any]:
    """The result, and the stamp of the file if it was read now."""
    try:
        status = os.stat(file)  # noqa: PTH116
    except (OSError, ValueError):
        return None, read(Path(file), None)
    stamp = status.st_size, status.st_mtime_ns, status.st_ctime_ns
    entry = index.find(file, stamp)
    return (stamp, read(Path(file), status)) if entry is None else (None, entry[0])


class Index:
    """The index of the common folder of `files`. Its keys are paths relative to that folder."""

    def __init__(self, files: Sequence[Name], kind: str) -> None:
        self._entries: dict[str, list[Any]] = {}
        self._path: Path | None = None
        self._folder = Path()
        self._prefix = 0  # characters of each path that name the folder
        if len(files) < FEWEST:
            return
        with suppress(ValueError):  # absolute and relative paths mixed: no index
            # os.path.dirname and Path.parent take several times as long for 100,000 files.
            folder = os.path.commonpath({text[: text.rfind(os.sep) + 1] for text in map(str, files)})
            self._folder, self._prefix = Path(folder), len(folder)
            self._path = FOLDER / f"{digest([VERSION, kind, Path(folder).absolute()])[:20]}.json"
            self._entries = _load(self._path)

    def _key(self, file: Name) -> str:
        return str(file)[self._prefix :].lstrip(os.sep)

    def find(self, file: Name, stamp: Stamp) -> tuple[Any] | None:
        """Returns the stored result in a tuple, or None if there is none or the file has changed."""
        entry = self._entries.get(self._key(file))
        return None if entry is None or tuple(entry[:3]) != stamp else (entry[3],)

    def update(self, new: Mapping[Name, tuple[Stamp, Any]], files: Sequence[Name]) -> None:
        """Adds entries and writes the index, unless nothing is new. `files` are all files in use."""
        latest = time.time_ns() - SETTLED
        added = {self._key(file): [*stamp, result] for file, (stamp, result) in new.items() if max(stamp[1:]) < latest}
        if self._path is None or not added:
            return
        entries = {**self._entries, **added}
        if len(entries) > 2 * len(files):
            used = set(map(self._key, files))
            entries = {key: entries[key] for key in entries if key in used or (self._folder / key).exists()}
        content = json.dumps(entries, separators=(",", ":"))
        with suppress(OSError):
            atomic.write(self._path, f"{_checksum(content)}\n{content}")


def _checksum(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        checksum, _, content = path.read_text(encoding="utf-8").partition("\n")
        if checksum != _checksum(content):
            raise ValueError("its content has changed")
        return json.loads(content)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.debug("the index %s is not usable (%s): rebuilding it", path, error)
        return {}
