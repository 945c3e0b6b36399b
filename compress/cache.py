"""Content-addressed results of stages, shared by runs and sweeps: `python -m compress.cache list | prune`.

An entry is a folder named by the hash of everything its content depends on: the product that went in, the stage's
config, the data, the seed and the version of the method. It is complete when `entry.json` stands in it, which is
renamed into place last. An unfinished entry is kept: a stage finds its own half-done training there and goes on.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress import atomic
from compress.digest import digest

ENTRY = "entry.json"


@dataclass(frozen=True)
class Cache:
    root: Path
    enabled: bool = True

    def fetch(self, stage: str, parts: Mapping[str, Any], make: Callable[[Path], None]) -> tuple[Path, bool]:
        """The folder that `make(folder)` fills, made now or earlier, and whether it was there already.

        Two processes that want the same entry make it once: the second waits for the first. With the cache switched
        off the entry is made anew.
        """
        folder = self.root / f"{stage}-{digest(parts)[:20]}"
        with _locked(folder):
            if (folder / ENTRY).exists():
                if self.enabled:
                    os.utime(folder / ENTRY)  # prune drops what was used longest ago
                    return folder, True
                shutil.rmtree(folder)
            elif not self.enabled and folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            began = time.time()
            make(folder)
            facts = {"stage": stage, "parts": parts, "seconds": round(time.time() - began, 1)}
            atomic.write(folder / ENTRY, json.dumps(facts, indent=1, default=str))
            return folder, False

    def entries(self) -> list[Path]:
        """Folders of the entries, used last first."""
        found = [path for path in self.root.glob("*-*") if path.is_dir()]
        return sorted(found, key=_last_used, reverse=True)


def size(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _last_used(folder: Path) -> float:
    entry = folder / ENTRY
    return (entry if entry.exists() else folder).stat().st_mtime


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(folder.name + ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m compress.cache", description="Results of stages, kept for reuse.")
    parser.add_argument("--root", type=Path, default=Path("outputs/.cache"))
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="entries, used last first")
    prune = commands.add_parser("prune", help="delete what was used longest ago")
    prune.add_argument("--keep-gb", type=float, default=0.0, help="keep at most this much (default: nothing)")
    given = parser.parse_args(arguments)
    entries, total = Cache(given.root).entries(), 0
    for folder in entries:
        total += size(folder)
        if given.command == "prune" and total > given.keep_gb * 1e9:
            with _locked(folder):  # not while a run is making it
                shutil.rmtree(folder)
            print(f"deleted {folder.name}")
        elif given.command == "list":
            state = "complete" if (folder / ENTRY).exists() else "unfinished"
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(_last_used(folder)))
            print(f"{folder.name}  {size(folder) / 1e6:8.1f} MB  {used}  {state}")
    if not entries:
        print(f"nothing cached in {given.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
