"""Latency of calls on this machine: medians of many runs, under a lock that processes share. Detects contention."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from compress.errors import UserError
from compress.host import without_garbage_collection
from compress.measurement import rapl
from compress.measurement.contention import CONTENDED, Waiting
from compress.targets.bench_kit import thermal

Call = Callable[[], object]
LOCK = Path(tempfile.gettempdir()) / "compress-timing.lock"
LOCK_SECONDS = 60.0  # longest wait for another process
MIN_ROUNDS = 10  # of `interleaved`, even after its time is over
PARTS = 8  # consecutive parts of a measurement; the extremes of their medians are `low` and `high`
ATTEMPTS = 3  # at most, if other programs used the CPU

log = logging.getLogger(__name__)
_depth = 0
_thread_lock = threading.RLock()


@dataclass(frozen=True)
class Latency:
    """Latency of a call. All times are in milliseconds."""

    median: float
    p95: float
    runs: int
    low: float  # smallest median of the measurement's `PARTS` consecutive parts
    high: float  # largest one
    cpu_wait: float | None = None  # fraction of their time that threads waited for a CPU, `contention.Waiting.fraction`
    ratio: float | None = None  # to the first call of `interleaved`: median over the rounds of the ratio of medians
    ratio_ci95: tuple[float, float] | None = None  # 95 % confidence interval of `ratio`
    energy_mj: float | None = None  # of one call: that of the CPU packages / runs; None without counters
    celsius: float | None = None  # of the hottest sensor after the measurement; None without sensors
    throttled: bool | None = None  # the system slowed the CPU down; None if it does not tell
    times: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)  # of the calls, in order

    @property
    def contended(self) -> bool:
        """Whether other programs used the CPU so much that the measurement is unreliable."""
        return self.cpu_wait is not None and self.cpu_wait > CONTENDED

    @property
    def drift(self) -> float:
        """How much longer the last quarter of the calls took than the first, a fraction of medians."""
        return thermal.drift(self.times)

    def merged_with(self, earlier: Latency | None) -> Latency:
        """Merges this with an earlier measurement of the same call: `low` and `high` then include drift between both.
        There is no `ratio`. If only this one is contended, returns `earlier`; if that is contended or None, `self`."""
        if earlier is None or earlier.contended:
            return self
        if self.contended:
            return earlier
        waits = [latency.cpu_wait for latency in (earlier, self) if latency.cpu_wait is not None]
        merged = replace(
            _latency(np.concatenate([earlier.times, self.times]), max(waits, default=None)), celsius=self.celsius,
            throttled=earlier.throttled or self.throttled,
        )  # fmt: skip
        if self.energy_mj is None or earlier.energy_mj is None:
            return merged
        return replace(merged, energy_mj=(self.energy_mj * self.runs + earlier.energy_mj * earlier.runs) / merged.runs)


def time_call(call: Call, *, seconds: float = 3, warmup: int = 10, min_runs: int = 30, wait: bool = True) -> Latency:
    """Times `call` for about `seconds` and at least `min_runs` times, after `warmup` untimed runs. If other programs
    use the CPU, measures up to `ATTEMPTS` times in all and returns the measurement with the lowest `cpu_wait`.

    If `wait`, waits up to `LOCK_SECONDS` while another process is timing; set it for latencies that will be compared.
    Otherwise measures at once, even without the lock. Raises UserError if the lock file cannot be opened."""
    with timing_lock(wait=wait), without_garbage_collection():
        for _ in range(warmup):
            call()
        best = _timed(call, seconds, min_runs)
        for _ in range(ATTEMPTS - 1):
            if not best.contended:
                break
            best = min(best, _timed(call, seconds, min_runs), key=lambda latency: latency.cpu_wait or 0.0)
    if best.contended:
        log.warning("other programs used the CPU during timing: threads waited for a CPU %.0f %% of their time, so "
                    "measured times may be too long", 100 * (best.cpu_wait or 0.0))  # fmt: skip
    return best


def _timed(call: Call, seconds: float, min_runs: int) -> Latency:
    times: list[float] = []
    waiting, energy, watch, end = Waiting(), rapl.Energy(), thermal.Watch(), time.perf_counter() + seconds
    while len(times) < min_runs or time.perf_counter() < end:
        times.append(_milliseconds(call))
    joules = energy.joules()
    latency = _latency(np.array(times), waiting.fraction())
    heat = watch.heat(times)
    latency = replace(latency, celsius=heat.celsius, throttled=heat.throttled)
    return latency if joules is None else replace(latency, energy_mj=1000 * joules / len(times))


def _latency(times: np.ndarray, cpu_wait: float | None) -> Latency:
    parts = [float(np.median(part)) for part in np.array_split(times, PARTS) if len(part)]
    median, p95 = float(np.median(times)), float(np.percentile(times, 95))
    return Latency(median, p95, len(times), min(parts), max(parts), cpu_wait, times=times)


def interleaved(
    calls: Mapping[str, Call], *, rounds: int = 20, block: int = 5, seconds: float = math.inf
) -> dict[str, Latency]:
    """Times calls under the same conditions: each round runs every call `block` times, in rotating order, so that slow
    drifts of the machine affect all calls alike. Stops after `rounds`, or after `seconds` and `MIN_ROUNDS`. Latencies
    have a `ratio` to the first call. Waits for the lock and raises UserError as `time_call` does; measures only once.

    Each block starts with an untimed run, because the preceding call has evicted the weights from the CPU's cache. A
    deployed model runs alone and keeps them there."""
    names = list(calls)
    times: dict[str, list[list[float]]] = {name: [] for name in names}
    with timing_lock(), without_garbage_collection():
        waiting, end = Waiting(), time.perf_counter() + seconds
        for index in range(rounds):
            if index >= MIN_ROUNDS and time.perf_counter() > end:
                break
            shift = index % len(names)
            for name in names[shift:] + names[:shift]:
                calls[name]()
                times[name].append([_milliseconds(calls[name]) for _ in range(block)])
        cpu_wait = waiting.fraction()
    medians = {name: np.median(times[name], axis=1) for name in names}
    latencies = {name: _latency(np.ravel(times[name]), cpu_wait) for name in names}
    return {name: _with_ratio(latencies[name], medians[name] / medians[names[0]]) for name in names}


def _with_ratio(latency: Latency, ratios: np.ndarray) -> Latency:
    # Order statistics bound a median without assuming a distribution: ranks n/2 - 1.96 sqrt(n)/2
    # and 1 + n/2 + 1.96 sqrt(n)/2, counted from 1.
    ordered, half = np.sort(ratios), 0.98 * math.sqrt(len(ratios))
    low = max(math.floor(len(ratios) / 2 - half) - 1, 0)
    high = min(math.ceil(len(ratios) / 2 + half), len(ratios) - 1)
    return replace(latency, ratio=float(np.median(ratios)), ratio_ci95=(float(ordered[low]), float(ordered[high])))


def _milliseconds(call: Call) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


@contextmanager
def timing_lock(*, wait: bool = True) -> Iterator[None]:
    """Holds the timing lock, which all processes with the same folder for temporary files share. May be nested within a
    thread; other threads of the process block until it is released, whatever `wait` is.

    If another process holds the lock, logs its pid, command and since when it holds it, waits up to `LOCK_SECONDS`, and
    then continues without the lock, with a warning; if not `wait`, continues without the lock at once, silently. Raises
    UserError if the lock file cannot be opened."""
    global _depth
    with _thread_lock:
        handle = _acquire(wait) if _depth == 0 else None
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
            if handle is not None:
                with suppress(OSError):
                    _holder_file().unlink(missing_ok=True)
                os.close(handle)


def _acquire(wait: bool) -> int:
    """A handle of the lock file, locked if possible. The system releases the lock when its process ends."""
    handle = _open_shared()
    if _try_lock(handle) or not wait:
        return handle
    log.info("waiting up to %g s for another process to finish timing: %s (%s)", LOCK_SECONDS, _holder(), LOCK)
    end = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < end:
        time.sleep(0.1)
        if _try_lock(handle):
            return handle
    log.warning("timing at the same time as another process, which has held the timing lock for more than %g s: %s; "
                "measured times may be too long", LOCK_SECONDS, _holder())  # fmt: skip
    return handle


def _open_shared() -> int:
    """Opens the lock file for reading, which suffices for flock. In a sticky folder Linux refuses O_CREAT on another
    user's file (fs.protected_regular), and the umask may have made it unwritable."""
    try:
        with suppress(FileNotFoundError):
            return os.open(LOCK, os.O_RDONLY | os.O_CLOEXEC)
        handle = os.open(LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        os.fchmod(handle, 0o666)  # the umask may have removed the rights of other users
        return handle
    except OSError as error:
        remedy = f"cannot open {LOCK.name} in it ({error.strerror}): delete that file, or set another folder"
        raise UserError("TMPDIR", LOCK.parent, remedy) from error


def _try_lock(handle: int) -> bool:
    """Locks the file if no other process has, and then records who holds the lock. Returns whether it is locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    command = " ".join(sys.argv)[:200].replace("\n", " ")
    text = f"process {os.getpid()} ({command}) since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    with suppress(OSError):  # this file only serves messages
        description = os.open(_holder_file(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        with os.fdopen(description, "w", encoding="utf-8") as file:
            file.write(text)
    return True


def _holder_file() -> Path:
    """File in which the holder describes itself. One per process, because another user's file cannot be overwritten."""
    return LOCK.with_name(f"{LOCK.name}.{os.getpid()}")


def _holder() -> str:
    """The newest description of a living process that holds or held the lock."""
    described: list[tuple[float, str]] = []
    for path in LOCK.parent.glob(f"{LOCK.name}.*"):
        pid = path.name.rpartition(".")[2]
        if pid.isdecimal() and _alive(int(pid)):
            with suppress(OSError, UnicodeDecodeError):
                described.append((path.stat().st_mtime, path.read_text(encoding="utf-8")[:400]))
    return max(described)[1] if described else "an unknown process"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # only checks: signal 0 is not delivered
    except OSError as error:
        return isinstance(error, PermissionError)  # of another user
    return True
