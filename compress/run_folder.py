"""The folder of one run: its name, its lock, its state (`state.json`) and its temporary files. A run of the same
configuration continues in the folder of an interrupted one. A killed process cannot write its state, but the system
releases its lock: a folder in state `running` that is not locked was interrupted. The folder itself is locked, not a
file in it, so that a rejected run leaves no file behind; except on NFS, which cannot lock folders."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from compress import atomic, disk, interruption
from compress.digest import digest
from compress.errors import InUse, UserError

log = logging.getLogger(__name__)

STATE = "state.json"
SCHEMA_VERSION = 1
RUNNING, INTERRUPTED, FAILED, FINISHED = "running", "interrupted", "failed", "finished"
SCRATCH = ".scratch"
LOCK = ".lock"
CHECKING = "check"  # state before the first stage
POINTS = "points"  # state of a sweep
# Output of an interrupted run, deleted when it continues: it is written again, mostly from the cache.
WRITTEN = (
    *("ledger.jsonl", "controls.jsonl", "metrics.jsonl", "verdict.json", "report.html"),
    *("pruning.json", "quantization.json", "reconstruction.json", "layer_times.json"),
)
WRITTEN_FOLDERS = ("pruned", "reference", "artifacts", "controls", "drawings", "tensorboard", SCRATCH)
KEY = "hydra.run.dir"  # named in error messages
IN_USE = "another run uses this folder: wait until it ends, or use another folder"


class Finished(UserError):
    """The folder holds a finished run of this configuration."""


@dataclass
class _Claim:
    """A folder that this process has locked."""

    descriptor: int  # holds the lock
    created: Sequence[Path]  # folders that were created for it, deepest first; removed again if they stay empty
    in_use: bool = False  # while `hold` is active, so that a second one in this process fails


_claims: dict[Path, _Claim] = {}


def choose(parent: Path, config_text: str) -> Path:
    """Returns the folder in `parent` for a run of this configuration: the newest with an unfinished run of the same
    configuration, or a new one whose name is the date and time. Locks it until `release`. Raises UserError if nothing
    can be written there, and OSError if the disk is full."""
    for folder in sorted(parent.glob("*"), reverse=True):
        with suppress(OSError):  # another user's folder
            if _unfinished(folder, config_text) and _lock(folder):
                if _unfinished(folder, config_text):  # check again under the lock: another process may have finished it
                    _check_writable(folder)
                    return folder
                release(folder)
    created = _missing(parent)
    folder = new(parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    if not _lock(folder, [folder.absolute(), *created]):
        raise InUse(KEY, folder, IN_USE)
    with _writing(folder):
        State(folder, config_text, new=True).begin(CHECKING)
    return folder


def _check_writable(folder: Path) -> None:
    """Raises UserError if no file can be created in `folder`."""
    with _writing(folder), tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns an OSError in the block into UserError, except for a full disk and FileExistsError."""
    try:
        yield
    except OSError as error:
        if error.errno in disk.FULL or isinstance(error, FileExistsError):
            raise
        remedy = f"the folder is not writable ({error.strerror}): fix it, or use another folder"
        raise UserError(KEY, error.filename or folder, remedy) from error


def new(folder: Path) -> Path:
    """Creates `folder` and returns its path. If it exists, appends _2, _3, … to the name, because two runs may start
    within one second. Raises UserError if it cannot be created."""
    numbered, number = folder, 1
    while True:
        with suppress(FileExistsError), _writing(numbered):
            numbered.parent.mkdir(parents=True, exist_ok=True)
            numbered.mkdir()
            return numbered
        if not numbered.is_dir():
            raise UserError(KEY, numbered, "a file has this name: delete the file, or use another folder")
        number += 1
        numbered = folder.with_name(f"{folder.name}_{number}")


def _unfinished(folder: Path, config_text: str) -> bool:
    """Whether `folder` has an unfinished or running run of this configuration that was started on this machine."""
    state = read(folder)
    same = state.get("config") == digest(config_text) and state.get("host") == socket.gethostname()
    return same and state.get("status") in (RUNNING, INTERRUPTED, FAILED)


def read(folder: Path) -> dict[str, Any]:
    """The content of `state.json`; {} if it is missing or unreadable. Older versions did not write it."""
    try:
        state = json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def status(folder: Path) -> str:
    """The status in `state.json`, or `interrupted` if it is `running` and the process has ended, or "" if unknown."""
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
        self.started = datetime.now().astimezone().isoformat(timespec="seconds")

    def begin(self, stage: str) -> None:
        """Records that a stage starts. Raises KeyboardInterrupt if the command was interrupted."""
        interruption.check()
        self.stage = stage
        self._write(status=RUNNING, stage=stage, pid=os.getpid())

    def finished(self) -> None:
        self._write(status=FINISHED)

    def stopped(self, error: BaseException) -> None:
        """Records the error that ended the run."""
        if isinstance(error, KeyboardInterrupt) or interruption.requested():
            self._write(status=INTERRUPTED, stage=self.stage)
        else:
            self._write(status=FAILED, stage=self.stage, error=str(error) or type(error).__name__)

    def _write(self, **entries: Any) -> None:
        common = {"host": socket.gethostname(), "since": self.started, "config": self.config}
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
    created = _missing(folder)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = _lock(folder, created)
    if held is None or held.in_use:
        raise InUse(KEY, folder, IN_USE)
    _check_writable(folder)
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
                with suppress(OSError):  # the disk is full; the state stays "running", without a lock
                    state.stopped(error)
            raise
        state.finished()
    finally:
        with suppress(OSError):  # raised if a folder is not empty
            for directory in held.created:
                directory.rmdir()
        release(folder)


@contextmanager
def of_sweep(folder: Path, config_text: str) -> Iterator[None]:
    """Writes to `state.json` of a sweep's folder, which `choose` returned, how the block ends. Releases the folder."""
    state = State(folder, config_text, new=False)
    state.begin(POINTS)
    try:
        yield
        state.finished()
    except BaseException as error:
        with suppress(OSError):  # the disk is full; the state stays "running", without a lock
            state.stopped(error)
        raise
    finally:
        release(folder)


def _prepare(folder: Path, config_text: str, new: bool) -> State:
    """Deletes the output of an interrupted run. Raises UserError if the folder holds anything else."""
    before = {} if new else read(folder)
    if not before and (folder / "ledger.jsonl").exists():
        raise UserError(KEY, folder, "it holds results without a readable state.json: use another folder")
    if before and before.get("config") != digest(config_text):
        raise UserError(KEY, folder, "it holds a run of another configuration: use another folder")
    if before.get("status") == FINISHED:
        raise Finished(KEY, folder, "it holds a finished run of this configuration: use another folder")
    if before:
        log.info("continuing the run in %s, which stopped in stage %s", folder, before.get("stage"))
    state = State(folder, config_text, new=not before)
    with _writing(folder):
        (folder / "failed.json").unlink(missing_ok=True)  # of a failed point of a sweep, which is run again
        for name in WRITTEN if before else ():
            (folder / name).unlink(missing_ok=True)
        for name in WRITTEN_FOLDERS if before else ():
            shutil.rmtree(folder / name, ignore_errors=True)
        atomic.remove_leftovers(folder)
        state.begin(CHECKING)
    return state


@contextmanager
def _scratch_in(folder: Path) -> Iterator[None]:
    """Puts temporary files of this process and its children into the run folder, which a later run cleans up."""
    scratch = (folder / SCRATCH).resolve()
    scratch.mkdir(exist_ok=True)
    previous_tempdir, tempfile.tempdir = tempfile.tempdir, str(scratch)
    previous_tmpdir, os.environ["TMPDIR"] = os.environ.get("TMPDIR"), str(scratch)
    try:
        yield
    finally:
        tempfile.tempdir = previous_tempdir
        if previous_tmpdir is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = previous_tmpdir
        shutil.rmtree(scratch, ignore_errors=True)


def link_latest(folder: Path) -> None:
    """Links `outputs/latest` to a finished run, except for points of sweeps and runs outside `outputs`."""
    outputs = Path("outputs").resolve()
    if folder.resolve().parent.parent != outputs:
        return
    link = outputs / f".latest.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.resolve())
    os.replace(link, outputs / "latest")


def _missing(folder: Path) -> list[Path]:
    """`folder` and its parents that do not exist, deepest first."""
    return [each.absolute() for each in (folder, *folder.parents) if not each.exists()]


def _lock(folder: Path, created: Sequence[Path] = ()) -> _Claim | None:
    """The claim of this process, which is made with `created` if there is none; None if another process has one."""
    key = folder.resolve()
    if key not in _claims:
        descriptor = _locked(folder)
        if descriptor is None:
            return None
        _claims[key] = _Claim(descriptor, created)
    return _claims[key]


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the lock of the folder; None if another process holds it. NFS locks only what is open for
    writing, which a folder cannot be: there the file `LOCK` in it is locked."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.close(descriptor)
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def release(folder: Path) -> None:
    """Unlocks the folder if this process holds it."""
    held = _claims.pop(folder.resolve(), None)
    if held is not None:
        os.close(held.descriptor)
