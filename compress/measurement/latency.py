"""How long a call takes on this machine: medians of many runs, alone on the machine as far as we can see to it."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from compress.errors import UserError
from compress.measurement.contention import CONTENDED, Waiting

Call = Callable[[], object]
LOCK = Path(tempfile.gettempdir()) / "compress-timing.lock"
LOCK_SECONDS = 60.0  # longest wait for another process
PARTS = 8  # of a measurement, whose medians bound its own
ATTEMPTS = 3  # at most, where other programs took the CPU

log = logging.getLogger(__name__)
_depth = 0
_threads = threading.RLock()


@dataclass(frozen=True)
class Latency:
    """Milliseconds a call.

    `low` and `high`: the least and the greatest median of the measurement's `PARTS`, in order of time. `cpu_wait`: see
    `contention.Waiting.share`. `ratio` (only from `interleaved`) is the median, over rounds, of this call's time over
    the first named call's in the same round; `ratio_ci95` bounds that median.
    """

    median: float
    p95: float
    runs: int
    low: float
    high: float
    cpu_wait: float | None = None
    ratio: float | None = None
    ratio_ci95: tuple[float, float] | None = None
    times: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)  # in order

    @property
    def contended(self) -> bool:
        """Whether other programs took the CPU meanwhile, so that this says little."""
        return self.cpu_wait is not None and self.cpu_wait > CONTENDED

    def after(self, earlier: Latency | None) -> Latency:
        """This and an earlier measurement of the same, as one. What a machine drifts between two occasions, by its
        clock or its neighbours, then lies between `low` and `high`. A contended one gives way to the other."""
        if earlier is None or earlier.contended:
            return self
        if self.contended:
            return earlier
        waits = [each.cpu_wait for each in (earlier, self) if each.cpu_wait is not None]
        return _latency(np.concatenate([earlier.times, self.times]), max(waits, default=None))


def time_call(
    call: Call, *, seconds: float = 3, warmup: int = 10, min_runs: int = 30, compared: bool = True
) -> Latency:
    """Time `call` for about `seconds` and at least `min_runs` times, after `warmup` untimed runs. Where other programs
    took the CPU it is timed again, up to `ATTEMPTS` times, and the measurement that waited least is kept. Only what is
    `compared` with others waits for another process's timing.

    Raises:
        UserError: the lock file cannot be opened.
    """
    with timing_lock(wait=compared), _no_garbage_collection():
        for _ in range(warmup):
            call()
        found = _timed(call, seconds, min_runs)
        for _ in range(ATTEMPTS - 1):
            if not found.contended:
                break
            found = min(found, _timed(call, seconds, min_runs), key=lambda each: each.cpu_wait or 0.0)
    if found.contended:
        log.warning("timed while other programs took the CPU: threads waited for it %.0f %% of their time, so that "
                    "times measured now may be too long", 100 * (found.cpu_wait or 0.0))  # fmt: skip
    return found


def _timed(call: Call, seconds: float, min_runs: int) -> Latency:
    times: list[float] = []
    waiting, end = Waiting(), time.perf_counter() + seconds
    while len(times) < min_runs or time.perf_counter() < end:
        times.append(_milliseconds(call))
    return _latency(np.array(times), waiting.share())


def _latency(times: np.ndarray, cpu_wait: float | None) -> Latency:
    parts = [float(np.median(part)) for part in np.array_split(times, PARTS) if len(part)]
    median, p95 = float(np.median(times)), float(np.percentile(times, 95))
    return Latency(median, p95, len(times), min(parts), max(parts), cpu_wait, times=times)


def interleaved(
    calls: Mapping[str, Call], *, rounds: int = 20, block: int = 5, seconds: float = math.inf
) -> dict[str, Latency]:
    """Compare calls under the same conditions: each round runs every call `block` times, in an order that rotates.
    After `seconds` it stops, having done 10 rounds at least.

    Slow drifts of the machine (frequency, neighbours) then fall on all of them. One untimed run precedes each block,
    since a deployed model would not find its weights evicted by a rival's.
    """
    names = list(calls)
    times: dict[str, list[list[float]]] = {name: [] for name in names}
    with timing_lock(), _no_garbage_collection():
        waiting, end = Waiting(), time.perf_counter() + seconds
        for index in range(rounds):
            if index >= 10 and time.perf_counter() > end:
                break
            shift = index % len(names)
            for name in names[shift:] + names[:shift]:
                calls[name]()
                times[name].append([_milliseconds(calls[name]) for _ in range(block)])
        cpu_wait = waiting.share()
    medians = {name: np.median(times[name], axis=1) for name in names}
    found = {name: _latency(np.ravel(times[name]), cpu_wait) for name in names}
    return {name: _compared(found[name], medians[name] / medians[names[0]]) for name in names}


def _compared(took: Latency, ratios: np.ndarray) -> Latency:
    # Order statistics bound a median without assuming a distribution: ranks n/2 -+ 1.96 sqrt(n)/2.
    ordered, half = np.sort(ratios), 0.98 * math.sqrt(len(ratios))
    low = max(math.floor(len(ratios) / 2 - half), 0)
    high = min(math.ceil(len(ratios) / 2 + half), len(ratios) - 1)
    bounds = float(ordered[low]), float(ordered[high])
    return replace(took, ratio=float(np.median(ratios)), ratio_ci95=bounds)


def _milliseconds(call: Call) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def timing_lock(*, wait: bool = True) -> Iterator[None]:
    """Hold the machine-wide timing lock; waits up to `LOCK_SECONDS` while another process holds it, whose pid, command
    and start are logged at once. After that it goes on without the lock, with a warning; without `wait` at once, and
    without a word. May be nested in a thread.

    Raises:
        UserError: the lock file cannot be opened.
    """
    global _depth
    with _threads:
        handle = _acquire(wait) if _depth == 0 else None
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
            if handle is not None:
                with contextlib.suppress(OSError):
                    _signature(os.getpid()).unlink(missing_ok=True)
                os.close(handle)


def _acquire(wait: bool) -> int:
    """A handle on the lock file, locked unless another process kept it for `LOCK_SECONDS` (or has it, without `wait`).
    The system releases the lock of a process that ends, however it ends."""
    handle = _open_shared(LOCK)
    if _locked(handle):
        _sign()
        return handle
    if not wait:
        return handle
    holder = _holder()
    log.info("waiting up to %g s for another process to finish timing: %s (%s)", LOCK_SECONDS, holder, LOCK)
    end = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < end:
        time.sleep(0.1)
        if _locked(handle):
            _sign()
            return handle
    log.warning("timing beside another process, which had the timing lock for more than %g s: %s; times measured now "
                "may be too long", LOCK_SECONDS, _holder())  # fmt: skip
    return handle


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _signature(pid: int | str) -> Path:
    """Written by the holder, beside the lock: each user's own, since another's file cannot be overwritten."""
    return LOCK.with_name(f"{LOCK.name}.{pid}")


def _sign() -> None:
    """Say who holds the lock and since when. Only for messages: a file that cannot be written stops nothing."""
    command = " ".join(sys.argv)[:200].replace("\n", " ")
    text = f"process {os.getpid()} ({command}) since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    with contextlib.suppress(OSError):
        handle = os.open(_signature(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)


def _holder() -> str:
    """The newest signature whose process is alive, else that nobody signed."""
    found: list[tuple[float, str]] = []
    for path in LOCK.parent.glob(f"{LOCK.name}.*"):
        pid = path.name.rpartition(".")[2]
        if pid.isdecimal() and _alive(int(pid)):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found.append((path.stat().st_mtime, path.read_text(encoding="utf-8")[:400]))
    return max(found)[1] if found else "a process that did not say who it is"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except PermissionError:
        return True  # another user's
    except OSError:
        return False
    return True


def _open_shared(path: Path) -> int:
    """Open the lock file for reading, which flock is content with: in a sticky folder Linux refuses O_CREAT on
    another user's file (fs.protected_regular), and the umask may have left it unwritable."""
    try:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            os.fchmod(handle, 0o666)  # the umask took others' rights away
            return handle
    except OSError as error:
        raise UserError("TMPDIR", path, f"the timing lock cannot be opened ({error.strerror}); fix it") from error
