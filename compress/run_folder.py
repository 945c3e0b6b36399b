"""The folder of one run: its name, its lock, how far the run came (`state.json`), and its temporary files.

`state.json` of an interrupted run says so, and a run of the same config continues in that folder. A process that was
killed cannot write it, but its lock is gone: a folder in state `running` that is not locked is an interrupted one. The
lock is on the folder itself, so that a run that is refused leaves nothing behind.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from compress import atomic, disk
from compress.digest import digest
from compress.errors import InUse, UserError

log = logging.getLogger(__name__)

STATE = "state.json"
SCHEMA_VERSION = 1
RUNNING, INTERRUPTED, FAILED, FINISHED = "running", "interrupted", "failed", "finished"
SCRATCH = ".scratch"
CHECKING = "check"  # the name of what comes before the first stage
# What a run writes. One that goes on measures every product anew, so that all times stem from one process; products
# of finished stages come from the cache.
WRITTEN = ("ledger.jsonl", "controls.jsonl", "verdict.json", "report.html", "pruning.json", "quantization.json")
WRITTEN_FOLDERS = ("pruned", "artifacts", SCRATCH)
KEY = "hydra.run.dir"


class Finished(UserError):
    """The folder holds all that a run of this config gives."""


@dataclass
class _Claim:
    """What this process has of a folder that it holds."""

    descriptor: int  # the lock's
    made: list[Path]  # the folder and its parents where they were made for it; they go again where they stay empty
    in_use: bool = False


_claims: dict[Path, _Claim] = {}


def choose(parent: Path, config_text: str) -> Path:
    """The folder below `parent` for a run of this config: the newest unfinished one of the same config, or a new one
    named after date and time. This process holds it from here on.

    Raises:
        UserError: nothing can be written there.
        OSError: the disk is full.
    """
    for folder in sorted(parent.glob("*"), reverse=True):
        with suppress(OSError):  # somebody else's
            if unfinished(folder, config_text) and _lock(folder):
                if unfinished(folder, config_text):  # still: another process may have finished it meanwhile
                    _try(folder)
                    return folder
                release(folder)
    made = _absent(parent)
    folder = new(parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    if not _lock(folder, [folder.absolute(), *made]):
        raise InUse(KEY, folder, "another run is at work there: start again")
    with _writing(folder):
        State(folder, config_text, new=True).at(CHECKING)
    return folder


def claim(folder: Path) -> None:
    """Makes the folder that the user names, and holds it.

    Raises:
        InUse: another process is at work in it.
        UserError: nothing can be written there.
        OSError: the disk is full.
    """
    made = _absent(folder)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        locked = _lock(folder, made)
    if not locked:
        raise InUse(KEY, folder, "another run is at work there: start again")
    _try(folder)


def _try(folder: Path) -> None:
    with _writing(folder), tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A folder that cannot be written is the user's mistake; a full disk is not."""
    try:
        yield
    except OSError as error:
        if error.errno in disk.FULL or isinstance(error, FileExistsError):
            raise
        where = error.filename or folder
        raise UserError(KEY, where, f"it cannot be written ({error.strerror}): fix it") from error


def new(folder: Path) -> Path:
    """Makes the folder, with a number behind its name where there is one already: two may start within one second.

    Raises:
        UserError: it cannot be made.
    """
    number = 1
    while True:
        numbered = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            with _writing(numbered):
                numbered.parent.mkdir(parents=True, exist_ok=True)
                numbered.mkdir()
            return numbered
        except FileExistsError as error:
            if not numbered.is_dir():
                raise UserError(KEY, numbered, "it cannot be made (a file is in its place): fix it") from error
            number += 1


def unfinished(folder: Path, config_text: str) -> bool:
    """Whether a run of this config was begun there, on this machine, and is not finished. The lock decides whether it
    is still at work."""
    state = read(folder)
    same = state.get("config") == digest(config_text) and state.get("host") == socket.gethostname()
    return same and state.get("status") in (RUNNING, INTERRUPTED, FAILED)


def read(folder: Path) -> dict[str, Any]:
    """The content of `state.json`; {} if there is none that can be read, as in folders of older versions."""
    try:
        state = json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def status(folder: Path) -> str:
    """As `state.json` says, but `interrupted` where the process that was running is gone; "" where nothing is known."""
    state = read(folder)
    if state.get("status") != RUNNING or state.get("host") != socket.gethostname() or folder.resolve() in _claims:
        return str(state.get("status", ""))
    if not _lock(folder):
        return RUNNING
    release(folder)
    return INTERRUPTED


class State:
    """Keeps `state.json` of a run that is under way up to date."""

    def __init__(self, folder: Path, config_text: str, new: bool) -> None:
        self.folder, self.config, self.stage, self.new = folder, digest(config_text), CHECKING, new
        self.since = datetime.now().astimezone().isoformat(timespec="seconds")

    def at(self, stage: str) -> None:
        """A stage begins."""
        self.stage = stage
        self._write({"status": RUNNING, "stage": stage, "pid": os.getpid()})

    def ended(self, status: str, error: BaseException | None = None) -> None:
        said = {"error": str(error) or type(error).__name__} if error is not None else {}
        self._write({"status": status, **({} if status == FINISHED else {"stage": self.stage}), **said})

    def _write(self, facts: Mapping[str, Any]) -> None:
        common = {"host": socket.gethostname(), "since": self.since, "config": self.config}
        state = {"schema_version": SCHEMA_VERSION, **facts, **common}
        atomic.write(self.folder / STATE, json.dumps(state, indent=1))


@contextmanager
def hold(folder: Path, config_text: str) -> Iterator[State]:
    """Makes the run folder, or takes up the one that an interrupted run of the same config left, and keeps others out.
    `state.json` tells how it ends. What was made goes again where nothing was written to it.

    Raises:
        InUse: another process is at work in it.
        UserError: it holds a run of another config, or a finished one, or cannot be written.
    """
    claim(folder)
    held = _claims[folder.resolve()]
    if held.in_use:
        raise InUse(KEY, folder, "another run is at work there: start again")
    held.in_use = True
    try:
        state = _take_up(folder, config_text, new=folder.absolute() in held.made)
        try:
            with _scratch_in(folder):
                yield state
        except BaseException as error:
            if isinstance(error, UserError) and state.stage == CHECKING and state.new:
                (folder / STATE).unlink(missing_ok=True)  # refused before any work
            else:
                stopped = isinstance(error, KeyboardInterrupt)
                with suppress(OSError):  # of a full disk. It says "running" then, and is not locked
                    state.ended(INTERRUPTED if stopped else FAILED, None if stopped else error)
            raise
        state.ended(FINISHED)
    finally:
        with suppress(OSError):  # not empty
            for each in held.made:
                each.rmdir()
        release(folder)


def _take_up(folder: Path, config_text: str, new: bool) -> State:
    before = {} if new else read(folder)
    if not before and (folder / "ledger.jsonl").exists():
        raise UserError(KEY, folder, "it holds another run: use another folder")
    if before and before.get("config") != digest(config_text):
        raise UserError(KEY, folder, "it holds a run of another config: use another folder")
    if before.get("status") == FINISHED:
        raise Finished(KEY, folder, "a run of this config is finished there: use another folder")
    if before:
        log.info("continuing %s, stopped in stage %s", folder, before.get("stage"))
    state = State(folder, config_text, new=not before)
    with _writing(folder):
        (folder / "failed.json").unlink(missing_ok=True)  # of a sweep's point, which is tried once more
        for name in WRITTEN if before else ():
            (folder / name).unlink(missing_ok=True)
        for name in WRITTEN_FOLDERS if before else ():
            shutil.rmtree(folder / name, ignore_errors=True)
        state.at(CHECKING)
    return state


@contextmanager
def _scratch_in(folder: Path) -> Iterator[None]:
    """Temporary files of this process, and of those it starts, lie in the run folder: a killed process cannot delete
    its own, and whoever goes on here, or deletes the folder, does."""
    scratch = (folder / SCRATCH).resolve()
    scratch.mkdir(exist_ok=True)
    before, tempfile.tempdir = tempfile.tempdir, str(scratch)
    environment, os.environ["TMPDIR"] = os.environ.get("TMPDIR"), str(scratch)
    try:
        yield
    finally:
        tempfile.tempdir = before
        if environment is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = environment
        shutil.rmtree(scratch, ignore_errors=True)


def link_latest(folder: Path) -> None:
    """Points `outputs/latest` at a finished run; runs elsewhere, and points of a sweep, leave it alone."""
    outputs = Path("outputs").resolve()
    if folder.resolve().parents[1] != outputs:
        return
    part = outputs / f".latest.{os.getpid()}"
    part.unlink(missing_ok=True)
    part.symlink_to(folder.resolve())
    os.replace(part, outputs / "latest")


def _absent(folder: Path) -> list[Path]:
    return [each.absolute() for each in (folder, *folder.parents) if not each.exists()]


def _lock(folder: Path, made: list[Path] | None = None) -> bool:
    """Whether this process holds the folder now. The system drops the lock of a process that ends in any way."""
    key = folder.resolve()
    if key in _claims:
        return True
    held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return False
    _claims[key] = _Claim(held, made or [])
    return True


def release(folder: Path) -> None:
    """Lets others at the folder, where this process held it."""
    held = _claims.pop(folder.resolve(), None)
    if held is not None:
        os.close(held.descriptor)
