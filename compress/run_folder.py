"""The folder of one run: its name, its lock, its state (`state.json`) and its temporary files.

A run of the same configuration continues in the folder of an interrupted one. A killed process cannot write its state,
but the system releases its lock: a folder in state `running` that is not locked was interrupted. The folder itself is
locked, not a file in it, so that a rejected run leaves no file behind.
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
CHECKING = "check"  # state before the first stage
# Output of a run. A continued run deletes and measures it again, so that all latencies stem from one process; products
# of finished stages come from the cache.
WRITTEN = ("ledger.jsonl", "controls.jsonl", "verdict.json", "report.html", "pruning.json", "quantization.json")
WRITTEN_FOLDERS = ("pruned", "artifacts", SCRATCH)
KEY = "hydra.run.dir"


class Finished(UserError):
    """The folder holds a finished run of this configuration."""


@dataclass
class _Claim:
    """A folder that this process has locked."""

    descriptor: int  # of the lock
    created: list[Path]  # the folder and its parents that were created for it; removed again if they stay empty
    in_use: bool = False  # by `hold`


_claims: dict[Path, _Claim] = {}


def choose(parent: Path, config_text: str) -> Path:
    """Locks and returns the folder below `parent` for a run of this configuration: the newest unfinished one of the
    same configuration, or a new one named after date and time.

    Raises:
        UserError: nothing can be written there.
        OSError: the disk is full.
    """
    for folder in sorted(parent.glob("*"), reverse=True):
        with suppress(OSError):  # another user's folder
            if unfinished(folder, config_text) and _lock(folder):
                if unfinished(folder, config_text):  # again: another process may have finished it meanwhile
                    _try(folder)
                    return folder
                release(folder)
    created = _absent(parent)
    folder = new(parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    if not _lock(folder, [folder.absolute(), *created]):
        raise InUse(KEY, folder, "another run uses it: start again")
    with _writing(folder):
        State(folder, config_text, new=True).at(CHECKING)
    return folder


def claim(folder: Path) -> None:
    """Creates and locks the folder that the user names.

    Raises:
        InUse: another process uses it.
        UserError: nothing can be written there.
        OSError: the disk is full.
    """
    created = _absent(folder)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        locked = _lock(folder, created)
    if not locked:
        raise InUse(KEY, folder, "another run uses it: start again")
    _try(folder)


def _try(folder: Path) -> None:
    with _writing(folder), tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raises UserError for a folder that cannot be written; errors of a full disk pass through."""
    try:
        yield
    except OSError as error:
        if error.errno in disk.FULL or isinstance(error, FileExistsError):
            raise
        where = error.filename or folder
        raise UserError(KEY, where, f"it cannot be written ({error.strerror}): fix it") from error


def new(folder: Path) -> Path:
    """Creates the folder, with a number appended to its name if it exists: two runs may start within one second.

    Raises:
        UserError: it cannot be created.
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
                raise UserError(KEY, numbered, "it cannot be created (a file is in its place): fix it") from error
            number += 1


def unfinished(folder: Path, config_text: str) -> bool:
    """Whether a run of this configuration was started there, on this machine, and did not finish. It may be running:
    only the lock tells."""
    state = read(folder)
    same = state.get("config") == digest(config_text) and state.get("host") == socket.gethostname()
    return same and state.get("status") in (RUNNING, INTERRUPTED, FAILED)


def read(folder: Path) -> dict[str, Any]:
    """The content of `state.json`; {} if there is no readable one, as in folders of older versions."""
    try:
        state = json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def status(folder: Path) -> str:
    """The status in `state.json`, but `interrupted` if the process that was running has ended; "" without a status."""
    state = read(folder)
    if state.get("status") != RUNNING or state.get("host") != socket.gethostname() or folder.resolve() in _claims:
        return str(state.get("status", ""))
    if not _lock(folder):
        return RUNNING
    release(folder)
    return INTERRUPTED


class State:
    """Writes `state.json` of a run in progress."""

    def __init__(self, folder: Path, config_text: str, new: bool) -> None:
        self.folder, self.config, self.stage, self.new = folder, digest(config_text), CHECKING, new
        self.since = datetime.now().astimezone().isoformat(timespec="seconds")

    def at(self, stage: str) -> None:
        """Records that a stage starts."""
        self.stage = stage
        self._write({"status": RUNNING, "stage": stage, "pid": os.getpid()})

    def ended(self, status: str, error: BaseException | None = None) -> None:
        """Records that the run ended."""
        reason = {"error": str(error) or type(error).__name__} if error is not None else {}
        self._write({"status": status, **({} if status == FINISHED else {"stage": self.stage}), **reason})

    def _write(self, entries: Mapping[str, Any]) -> None:
        common = {"host": socket.gethostname(), "since": self.since, "config": self.config}
        state = {"schema_version": SCHEMA_VERSION, **entries, **common}
        atomic.write(self.folder / STATE, json.dumps(state, indent=1))


@contextmanager
def hold(folder: Path, config_text: str) -> Iterator[State]:
    """Creates and locks the run folder, or that of an interrupted run of the same configuration, for the `with` block.

    Writes to `state.json` how the block ends. Removes created folders if they stay empty.

    Raises:
        InUse: another process uses it.
        UserError: it holds a run of another configuration or a finished one, or cannot be written.
    """
    claim(folder)
    held = _claims[folder.resolve()]
    if held.in_use:
        raise InUse(KEY, folder, "another run uses it: start again")
    held.in_use = True
    try:
        state = _prepare(folder, config_text, new=folder.absolute() in held.created)
        try:
            with _scratch_in(folder):
                yield state
        except BaseException as error:
            if isinstance(error, UserError) and state.stage == CHECKING and state.new:
                (folder / STATE).unlink(missing_ok=True)  # rejected before any work
            else:
                stopped = isinstance(error, KeyboardInterrupt)
                with suppress(OSError):  # the disk is full; the state stays "running", without a lock
                    state.ended(INTERRUPTED if stopped else FAILED, None if stopped else error)
            raise
        state.ended(FINISHED)
    finally:
        with suppress(OSError):  # not empty
            for each in held.created:
                each.rmdir()
        release(folder)


def _prepare(folder: Path, config_text: str, new: bool) -> State:
    """Deletes the output of an interrupted run. Raises UserError if the folder holds anything else."""
    before = {} if new else read(folder)
    if not before and (folder / "ledger.jsonl").exists():
        raise UserError(KEY, folder, "it holds another run: use another folder")
    if before and before.get("config") != digest(config_text):
        raise UserError(KEY, folder, "it holds a run of another configuration: use another folder")
    if before.get("status") == FINISHED:
        raise Finished(KEY, folder, "it holds a finished run of this configuration: use another folder")
    if before:
        log.info("continuing %s, stopped in stage %s", folder, before.get("stage"))
    state = State(folder, config_text, new=not before)
    with _writing(folder):
        (folder / "failed.json").unlink(missing_ok=True)  # of a failed point of a sweep, which is run again
        for name in WRITTEN if before else ():
            (folder / name).unlink(missing_ok=True)
        for name in WRITTEN_FOLDERS if before else ():
            shutil.rmtree(folder / name, ignore_errors=True)
        state.at(CHECKING)
    return state


@contextmanager
def _scratch_in(folder: Path) -> Iterator[None]:
    """Puts temporary files of this process and its children into the run folder. A killed process cannot delete them;
    the run that continues in the folder does."""
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
    """Points `outputs/latest` at a finished run, unless it is a point of a sweep or outside `outputs`."""
    outputs = Path("outputs").resolve()
    if folder.resolve().parents[1] != outputs:
        return
    part = outputs / f".latest.{os.getpid()}"
    part.unlink(missing_ok=True)
    part.symlink_to(folder.resolve())
    os.replace(part, outputs / "latest")


def _absent(folder: Path) -> list[Path]:
    return [each.absolute() for each in (folder, *folder.parents) if not each.exists()]


def _lock(folder: Path, created: list[Path] | None = None) -> bool:
    """Whether this process holds the folder now. The system releases the lock of a process that ends."""
    key = folder.resolve()
    if key in _claims:
        return True
    held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return False
    _claims[key] = _Claim(held, created or [])
    return True


def release(folder: Path) -> None:
    """Unlocks the folder if this process holds it."""
    held = _claims.pop(folder.resolve(), None)
    if held is not None:
        os.close(held.descriptor)
