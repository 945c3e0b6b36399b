from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from compress.errors import UserError
from compress.measurement import latency
from compress.measurement.latency import Latency
from tests.fakes import Clock

HOLD = """
import sys, time
from pathlib import Path
from compress.measurement import latency
latency.LOCK = Path(sys.argv[1])
with latency.timing_lock():
    print("held", flush=True)
    time.sleep(1)
    Path(sys.argv[1]).with_name("ends").touch()
"""


@contextmanager
def held_by_another(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock for a second."""
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        yield other
        other.kill()


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(latency, "LOCK", tmp_path / "lock")
    return tmp_path / "lock"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    monkeypatch.setattr(latency, "ATTEMPTS", 1)
    return clock


def test_statistics_of_known_times(clock: Clock) -> None:
    """The i-th call takes i ms. The first three calls are not timed."""
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        clock.sleep(calls / 1000)

    result = latency.time_call(call, seconds=0, warmup=3, min_runs=16)
    assert calls == 19 and result.runs == 16 and result.times.tolist() == list(range(4, 20))
    assert (result.median, result.low, result.high) == (11.5, 4.5, 18.5)
    assert result.p95 == np.percentile(range(4, 20), 95)


def test_a_call_is_timed_for_the_given_seconds(clock: Clock) -> None:
    assert latency.time_call(lambda: clock.sleep(0.25), seconds=10, warmup=0, min_runs=1).runs == 40


def test_two_measurements_are_merged() -> None:
    def took(median: float, cpu_wait: float = 0.0) -> Latency:
        return latency._latency(np.full(80, median), cpu_wait)

    both = took(2.0).merged_with(took(1.0))
    assert (both.low, both.median, both.high, both.runs) == (1.0, 1.5, 2.0, 160)
    assert took(2.0).merged_with(None).median == 2.0
    assert took(2.0).merged_with(took(9.0, 0.5)).median == 2.0  # other programs had the CPU then
    assert took(9.0, 0.5).merged_with(took(2.0)).median == 2.0


def test_interleaved_compares_with_the_first_call_of_the_same_round(clock: Clock) -> None:
    """The machine slows down from round to round. The ratio stays."""
    calls = 0

    def call(milliseconds: float) -> None:
        nonlocal calls
        calls += 1
        clock.sleep(milliseconds * (1 + calls // 6) / 1000)  # 2 calls, each 2 times after an untimed one

    results = latency.interleaved({"slow": lambda: call(8), "fast": lambda: call(2)}, rounds=10, block=2)
    assert (results["slow"].ratio, results["slow"].ratio_ci95) == (1.0, (1.0, 1.0))
    fast = results["fast"]
    assert fast.runs == 20 and fast.ratio is not None and fast.ratio_ci95 is not None
    assert fast.ratio == pytest.approx(0.25, rel=0.1) and fast.low < fast.high
    assert fast.ratio_ci95[0] <= fast.ratio <= fast.ratio_ci95[1]


def test_lock_excludes_a_second_process(own_lock: Path) -> None:
    with held_by_another(own_lock), latency.timing_lock():
        assert own_lock.with_name("ends").exists()


def test_a_wait_for_the_lock_names_the_holder_and_ends(
    own_lock: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(latency, "LOCK_SECONDS", 0.3)
    with held_by_another(own_lock) as other:
        with caplog.at_level("INFO"), latency.timing_lock():
            pass
        assert f"process {other.pid} (" in caplog.text and "timing at the same time as another process" in caplog.text
    caplog.clear()
    with latency.timing_lock():  # the lock of a killed process delays no other, and its signature is not read
        assert not caplog.text
        assert latency._holder().startswith("process ") and str(other.pid) not in latency._holder()


def test_a_timing_that_is_compared_with_no_other_does_not_wait(
    own_lock: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with held_by_another(own_lock):
        latency.time_call(lambda: None, seconds=0, min_runs=1, wait=False)
        assert "waiting" not in caplog.text


@pytest.mark.parametrize(
    ("waits", "kept", "measured"),
    [([0.01], 0.01, 1), ([None], None, 1), ([0.4, 0.02], 0.02, 2), ([0.4, 0.3, 0.5], 0.3, 3)],
)
def test_contended_timings_are_repeated_and_the_quietest_is_kept(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    waits: list[float | None],
    kept: float | None,
    measured: int,
) -> None:
    left = list(waits)
    monkeypatch.setattr(latency.Waiting, "fraction", lambda self: left.pop(0))
    result = latency.time_call(lambda: None, seconds=0, min_runs=1)
    assert result.cpu_wait == kept and len(waits) - len(left) == measured
    assert result.contended == (kept == 0.3) == ("other programs used the CPU" in caplog.text)


def test_lock_nests_and_is_shared_by_users(own_lock: Path) -> None:
    with latency.timing_lock(), latency.timing_lock():
        assert own_lock.stat().st_mode & 0o777 == 0o666
    own_lock.chmod(0o444)
    with latency.timing_lock():
        pass


def test_lock_that_cannot_be_opened_is_a_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "LOCK", tmp_path / "missing" / "lock")
    with pytest.raises(UserError, match="lock"), latency.timing_lock():
        pass
