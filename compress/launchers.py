"""Launchers and sweepers of Hydra (`conf/hydra/`): checks before a sweep starts, and on the machine of a point."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from compress import interruption
from compress.errors import MissingExtra, UserError
from compress.host import usable_threads

CHOICE = "hydra/launcher"
JOBS = "hydra.launcher.n_jobs"
ADDRESS = "hydra.launcher.ray.init.address"
CONNECT_SECONDS = 5.0  # Ray itself tries for minutes
_PREFACE, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"  # of HTTP/2; the frame is empty
_LOST = {  # what launchers raise then
    "joblib.externals.loky.process_executor.BrokenProcessPool", "submitit.core.utils.UncompletedJobError",
    "ray.exceptions.RayError",
}  # fmt: skip
_RAISED = "ray.exceptions.RayTaskError"  # a RayError too: the point itself raised an error
_pinned: dict[int, FileLock] = {}  # CPU: its lock
# (package, extra) by the first words of `_target_`
_NEEDS = {
    "hydra_plugins.hydra_joblib_launcher": ("hydra_joblib_launcher", "joblib"),
    "hydra_plugins.hydra_ray_launcher": ("hydra_ray_launcher", "ray"),
    "hydra_plugins.hydra_submitit_launcher": ("hydra_submitit_launcher", "slurm"),
    "hydra_plugins.compress_search": ("optuna", "optuna"),
}


def check(hydra: DictConfig, words: Sequence[str] = ()) -> None:
    """Raises UserError if the package of the launcher or the sweeper is not installed, or `sbatch` for Slurm, or if an
    override has an interval, which only a search accepts.

    Args:
        hydra: the node `hydra` of the composed configuration.
        words: overrides of the command.
    """
    for key, node in (("hydra/sweeper", hydra.sweeper), (CHOICE, hydra.launcher)):
        plugin = ".".join(str(node._target_).split(".")[:2])
        package, extra = _NEEDS.get(plugin, ("", None))
        if package and not _installed(package if extra == "optuna" else plugin):
            raise MissingExtra(key, package.replace("_", "-"), extra, hydra.runtime.choices[key])
    if str(hydra.launcher._target_).endswith("SlurmLauncher") and shutil.which("sbatch") is None:
        remedy = "there is no command `sbatch` here: start the sweep on a machine of the cluster, or use another"
        raise UserError(CHOICE, "submitit_slurm", f"{remedy} launcher")
    if str(hydra.sweeper._target_).endswith(".BasicSweeper"):
        for each in OverridesParser.create().parse_overrides(list(words)):
            if each.is_interval_sweep():
                key, _, value = str(each.input_line).partition("=")
                raise UserError(key, value, "an interval needs hydra/sweeper=optuna; or set several values")


def _installed(module: str) -> bool:
    with suppress(ImportError):  # of a parent package
        return importlib.util.find_spec(module) is not None
    return False


def divide_threads(composed: DictConfig, words: Sequence[str]) -> list[str]:
    """Overrides that divide the usable CPUs among the processes of joblib, if `words`, the overrides of the command,
    set only one of `threads` and the number of processes, or neither (then one thread each). `threads` does not appear
    in the names of the points."""
    if "joblib_launcher" not in str(composed.hydra.launcher._target_):
        return []
    usable, jobs = usable_threads(), composed.hydra.launcher.n_jobs
    if any(word.split("=")[0].lstrip("+") == "threads" for word in words) or composed.threads != usable:
        return [] if jobs else [f"{JOBS}={max(1, usable // composed.threads)}"]
    jobs = usable if jobs in (None, -1) else jobs
    excluded = ",".join([*composed.hydra.job.config.override_dirname.exclude_keys, "threads"])
    names = f"hydra.job.config.override_dirname.exclude_keys=[{excluded}]"
    return [f"threads={max(1, usable // jobs)}", f"{JOBS}={jobs}", names]


def pin(launcher: DictConfig, threads: int) -> None:
    """Restricts this process, a worker of joblib, to `threads` CPUs that no other worker of this machine has, so that
    points do not disturb each other's timing. Does nothing if too few CPUs are free, or for other launchers. The CPUs
    are locked by files in the folder for temporary files until the process ends."""
    if "joblib_launcher" not in str(launcher._target_) or _pinned:
        return
    for cpu in sorted(os.sched_getaffinity(0)):
        lock = FileLock(Path(tempfile.gettempdir(), f"compress-cpu{cpu}-{os.getuid()}.lock"))
        with suppress(Timeout):
            lock.acquire(blocking=False)
            _pinned[cpu] = lock
        if len(_pinned) == threads:
            os.sched_setaffinity(0, set(_pinned))
            return
    for lock in _pinned.values():
        lock.release()
    _pinned.clear()


def connect(hydra: DictConfig) -> None:
    """Starts Ray or connects to its cluster, if `hydra` selects that launcher; the launcher then uses this connection.
    Raises UserError if the cluster cannot be reached, or no node has what a point needs."""
    if "ray_launcher" not in str(hydra.launcher._target_) or "ray" not in hydra.launcher:
        return
    settings: Any = OmegaConf.to_container(hydra.launcher.ray, resolve=True)
    address = settings["init"].get("address")
    _reach(address)
    import ray

    try:
        with interruption.preserved():
            ray.init(**settings["init"])
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        remedy = "start the cluster (ray start --head), or set IP:PORT of its head, auto or null"
        raise UserError(ADDRESS, address, f"Ray does not start: {error}: {remedy}") from error
    for name, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        most = max((node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"]), default=0)
        if (settings["remote"].get(key) or 0) > most:
            remedy = f"no node of the cluster has more than {most:g} {name}s"
            hint = ": set threads, which it follows by default" if name == "CPU" else ""
            raise UserError(f"hydra.launcher.ray.remote.{key}", settings["remote"][key], remedy + hint)


def _reach(address: str | None) -> None:
    """Raises UserError if `address` is IP:PORT and no gRPC server, as Ray's are, answers there. It speaks HTTP/2: the
    client sends its preface and a frame SETTINGS, the server a frame SETTINGS (RFC 9113, sections 3.4 and 6.5)."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            connection.sendall(_PREFACE + _SETTINGS)
            answer = connection.recv(len(_SETTINGS), socket.MSG_WAITALL)
        if answer[3:4] != _SETTINGS[3:4]:
            raise OSError("another service does")
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = f"no Ray cluster answers there ({reason}): start it (ray start --head), or set IP:PORT of its head"
        raise UserError(ADDRESS, address, remedy) from error


def lost_worker(error: BaseException) -> str | None:
    """The message for an error of a launcher whose worker ended without an answer, otherwise None."""
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    if not names & _LOST or _RAISED in names:
        return None
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    remedy = "perhaps memory ran out: run fewer points at a time. The same command continues the sweep"
    return f"{CHOICE}: a worker ended before its point did ({reason}): {remedy}"


@dataclass(frozen=True)
class Origin:
    """The process that started a sweep, as its points know it."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    folder: Path = field(default_factory=Path.cwd)

    @property
    def here(self) -> bool:
        return (socket.gethostname(), os.getpid()) == (self.host, self.pid)

    def enter(self, sweep: Path) -> None:
        """Makes the working directory of the command that of this process, a worker, so that it reads the same data,
        checkpoints and cache. Raises UserError if this machine does not see that folder or the folder of the sweep."""
        worker = socket.gethostname()
        for key, folder, seen in (
            ("hydra.sweep.dir", sweep, (sweep / "multirun.yaml").is_file()),
            ("working directory", self.folder, self.folder.is_dir()),
        ):
            if not seen:
                remedy = f"the worker {worker} does not see this folder of {self.host}: run the command in a folder"
                raise UserError(key, folder, f"{remedy} that both share")
        os.chdir(self.folder)
