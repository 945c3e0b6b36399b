"""On-disk cache of stage results, shared by runs and sweeps. Its command line: `compress cache list | verify | prune`.

An entry is a folder named by the hash of everything its content depends on. It is complete once it contains
`entry.json`, which is written last and lists size and SHA-256 of every other file. Damage is detected on reading, and
the result is computed again. An unfinished entry is kept, so that a stage can resume its training."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from compress import atomic
from compress.digest import digest
from compress.errors import Parser, UserError

DEFAULT_ROOT = Path("outputs/.cache")
ENTRY = "entry.json"
VALUE = "value.json"  # of an entry that is one JSON-like value
DAMAGED = 3  # exit status of `verify`
SCHEMA_VERSION = 2  # version 1 did not list the files
ENTRY_NAME = re.compile(r".+-[0-9a-f]{20}")  # folder name of an entry; `compress cache prune` deletes no other folders

log = logging.getLogger(__name__)


class Damaged(Exception):
    """An entry differs from what was written; the message names the first difference."""


class SchemaMismatch(Exception):
    """An entry has another schema version."""


@dataclass(frozen=True)
class Cache:
    """The entries below `root`. If not `enabled`, each requested entry is deleted, computed and stored again."""

    root: Path
    enabled: bool = True

    def check(self) -> None:
        """Raises UserError if the cache cannot be written. Creates nothing."""
        place = next(place for place in (self.root, *self.root.absolute().parents) if os.path.lexists(place))
        if not place.is_dir() or not os.access(place, os.W_OK):
            remedy = f"the cache {self.root} needs a writable folder: make {place} one, or run in another folder"
            raise UserError("cache", place, remedy)

    def fetch(
        self, stage: str, parts: Mapping[str, Any], make: Callable[[Path], None],
        usable: Callable[[Path], bool] = lambda _: True,
    ) -> tuple[Path, bool]:  # fmt: skip
        """Returns the folder of the entry, which `make(folder)` has filled, and whether it was cached. `parts` are all
        inputs of the result, JSON-like. The folder may hold files of an interrupted call; it is kept if `make` raises.
        A second process that needs the entry waits for the first. A damaged entry is made again, with a warning; one
        that is not `usable`, without."""
        key, folder = self._place(stage, parts)
        with _locked(folder):
            if not self.enabled:
                _remove(folder)
            elif _validate_or_remove(folder, stage, key):
                if usable(folder):
                    os.utime(folder / ENTRY)  # marks it as used; `prune` deletes the entries used longest ago first
                    return folder, True
                _remove(folder)
            folder.mkdir(parents=True, exist_ok=True)
            atomic.remove_leftovers(folder)
            start = time.time()
            make(folder)
            _write_entry(folder, stage=stage, key=key, parts=parts, seconds=round(time.time() - start, 1))
            return folder, False

    def fetch_value(self, stage: str, parts: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """Returns the JSON-like value that `make` returns, or returned before for the same `parts`."""

        def write(folder: Path) -> None:
            atomic.write(folder / VALUE, json.dumps(make()))

        folder, _ = self.fetch(stage, parts, write)
        return json.loads((folder / VALUE).read_text())

    def known_value(self, stage: str, parts: Mapping[str, Any]) -> Any | None:
        """The value that `fetch_value` would return without making it, or None. Creates no files."""
        key, folder = self._place(stage, parts)
        if not self.enabled or not (folder / ENTRY).exists():
            return None
        with _locked(folder):
            return json.loads((folder / VALUE).read_text()) if _validate_or_remove(folder, stage, key) else None

    def _place(self, stage: str, parts: Mapping[str, Any]) -> tuple[str, Path]:
        """The key of an entry, and its folder."""
        key = digest(parts)
        return key, self.root / f"{stage}-{key[:20]}"

    def entries(self) -> list[Path]:
        """Folders of the entries, most recently used first."""
        entries = [path for path in self.root.glob("*-*") if ENTRY_NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(entries, key=_last_used, reverse=True)


def _validate_or_remove(folder: Path, stage: str, key: str) -> bool:
    """Whether the entry is complete and undamaged. Removes an entry that is damaged or of another schema version."""
    # Nothing is there, or a real folder without entry.json: new or unfinished, which `make` continues.
    if not os.path.lexists(folder / ENTRY) and not folder.is_symlink() and (folder.is_dir() or not folder.exists()):
        return False
    try:
        entry = verify(folder)
        if (entry["stage"], entry["key"]) != (stage, key):
            raise Damaged(f"{ENTRY} belongs to another entry")
        return True
    except Damaged as error:
        log.warning("cache: %s is damaged and is computed again: %s", folder.name, error)
    except SchemaMismatch:
        log.info("cache: %s has another schema version and is computed again", folder.name)
    _remove(folder)
    return False


def _write_entry(folder: Path, **record: Any) -> None:
    """Completes an entry: writes `record`, and size and SHA-256 of every file in `folder`, to `entry.json`."""
    files = {name: _fingerprint(path) for name, path in _files(folder).items()}
    entry = json.loads(json.dumps({"schema_version": SCHEMA_VERSION, **record, "files": files}, default=str))
    atomic.write(folder / ENTRY, json.dumps({**entry, "sha256": digest(entry)}, indent=1))


def verify(folder: Path) -> dict[str, Any]:
    """Checks every file of a complete entry. Returns `entry.json` without its hash. Raises Damaged, SchemaMismatch."""
    if folder.is_symlink() or not folder.is_dir():
        raise Damaged("not a folder")
    try:
        entry = json.loads((folder / ENTRY).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{ENTRY} cannot be read ({error})") from error
    if not isinstance(entry, dict):
        raise Damaged(f"{ENTRY} is not a JSON object")
    if entry.get("schema_version") != SCHEMA_VERSION:
        raise SchemaMismatch
    if entry.pop("sha256", None) != digest(entry):
        raise Damaged(f"{ENTRY} does not match its own hash")
    try:
        files = _files(folder)
        for name in sorted(files.keys() ^ entry["files"].keys()):
            raise Damaged(f"{name} {'was added' if name in files else 'is missing'}")
        for name, path in files.items():
            if path.is_symlink() or _fingerprint(path) != entry["files"][name]:
                raise Damaged(f"{name} has changed since it was written")
    except OSError as error:
        raise Damaged(f"it cannot be read ({error})") from error
    return entry


def _files(folder: Path) -> dict[str, Path]:
    """All files and links below `folder` except `entry.json`, by name; links are not followed."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix(): path for path in paths if path != folder / ENTRY}


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _last_used(folder: Path) -> float:
    entry = folder / ENTRY
    return (entry if entry.exists() else folder).stat().st_mtime


def _locked(folder: Path) -> FileLock:
    """The lock of an entry, held while it is checked, made or deleted."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(folder.name + ".lock"))


def _state(folder: Path) -> str:
    """What `compress cache verify` says about an entry."""
    if not os.path.lexists(folder / ENTRY):
        return "unfinished"
    try:
        verify(folder)
    except Damaged as error:
        return f"damaged: {error}"
    except SchemaMismatch:
        return "other schema version: will be computed again"
    return "undamaged"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0; 2 after a user error; 3 if `verify` finds a damaged entry."""
    try:
        return _command(arguments)
    except UserError as error:
        print(f"compress: error: {error}", file=sys.stderr)
        return 2


def _command(arguments: list[str] | None) -> int:
    parser = Parser(prog="compress cache", description="Cached results of stages.")
    parser.add_argument("--root", type=Path, help=f"default: {DEFAULT_ROOT}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="entries, most recently used first")
    commands.add_parser("verify", help="reads every complete entry; exit status 3 if one is damaged")
    prune = commands.add_parser("prune", help="delete the least recently used entries (not the stage prune)")
    keep_help = "GB (10^9 bytes) of the most recently used entries to keep (default: 0, delete all)"
    prune.add_argument("--keep-gb", type=float, default=0.0, help=keep_help)
    options = parser.parse_args(arguments)
    root = options.root or DEFAULT_ROOT
    if not root.is_dir() and (options.root or os.path.lexists(root)):
        raise UserError("--root", root, "not a folder: set the folder of a cache")
    if options.command == "prune" and not 0 <= options.keep_gb < math.inf:
        raise UserError("--keep-gb", options.keep_gb, "set 0 or a positive number of gigabytes")
    entries, total, status = Cache(root).entries(), 0, 0
    for folder in entries:
        if options.command == "verify":
            state = _state(folder)
            status = DAMAGED if state.startswith("damaged") else status
            print(f"{folder.name}  {state}")
            continue
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        total += size
        if options.command == "list":
            state = "complete" if (folder / ENTRY).exists() else "unfinished"
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(_last_used(folder)))
            print(f"{folder.name}  {size / 1e6:8.1f} MB  {used}  {state}")
        elif total > options.keep_gb * 1e9 or options.keep_gb == 0:
            with _locked(folder):  # a run may be making it
                _remove(folder)
            print(f"deleted {folder.name}")
    if not entries and options.command != "verify":
        print(f"nothing cached in {root}")
    return status


if __name__ == "__main__":
    sys.exit(main())
