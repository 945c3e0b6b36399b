from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from compress.errors import UserError
from compress.measurement import latency

HOLD = """
import sys, time
from pathlib import Path
from compress.measurement import latency
latency.LOCK = Path(sys.argv[1])
with latency.timing_lock():
    print("held", flush=True)
    time.sleep(1)
"""


@pytest.fixture(autouse=True)
def own_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "LOCK", tmp_path / "lock")
    return tmp_path / "lock"


def test_time_call_counts_and_orders(monkeypatch):
    calls = []
    monkeypatch.setattr(latency, "ATTEMPTS", 1)
    result = latency.time_call(lambda: (calls.append(1), time.sleep(0.002)), seconds=0, warmup=3, min_runs=10)
    assert result.runs == 10 and len(calls) == 13
    assert 2 <= result.low <= result.median <= result.high and result.median <= result.p95


def test_two_occasions_are_told_as_one():
    def took(median, cpu_wait=0.0):
        return latency._latency(np.full(80, median), cpu_wait)

    both = took(2.0).after(took(1.0))
    assert (both.low, both.median, both.high, both.runs) == (1.0, 1.5, 2.0, 160)
    assert took(2.0).after(None).median == 2.0
    assert took(2.0).after(took(9.0, 0.5)).median == 2.0  # other programs had the CPU then
    assert took(9.0, 0.5).after(took(2.0)).median == 2.0


def test_interleaved_compares_with_the_first():
    results = latency.interleaved(
        {"slow": lambda: time.sleep(0.006), "fast": lambda: time.sleep(0.002)}, rounds=10, block=2
    )
    assert results["slow"].ratio == 1 and results["slow"].ratio_ci95 == (1, 1)
    fast = results["fast"]
    assert fast.runs == 20 and fast.ratio < 0.9
    assert fast.ratio_ci95[0] <= fast.ratio <= fast.ratio_ci95[1]


def test_lock_excludes_a_second_process(own_lock):
    with subprocess.Popen([sys.executable, "-c", HOLD, own_lock], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        start = time.monotonic()
        with latency.timing_lock():
            assert time.monotonic() - start > 0.5
        assert other.wait() == 0


def test_a_wait_for_the_lock_names_the_holder_and_ends(own_lock, monkeypatch, caplog):
    monkeypatch.setattr(latency, "LOCK_SECONDS", 0.3)
    with subprocess.Popen([sys.executable, "-c", HOLD, own_lock], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with caplog.at_level("INFO"), latency.timing_lock():
            assert other.poll() is None
        assert f"process {other.pid} (" in caplog.text and "timing beside another process" in caplog.text
        other.kill()
    start = time.monotonic()
    with latency.timing_lock():  # the lock of a killed process holds nobody up, and its signature is not read
        assert time.monotonic() - start < 0.2
        assert latency._holder().startswith("process ") and str(other.pid) not in latency._holder()


def test_what_is_compared_with_nothing_waits_for_nobody(own_lock, caplog):
    with subprocess.Popen([sys.executable, "-c", HOLD, own_lock], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        latency.time_call(lambda: None, seconds=0, min_runs=1, compared=False)
        assert other.poll() is None and "waiting" not in caplog.text
        other.kill()


@pytest.mark.parametrize(
    ("waits", "kept", "measured"),
    [([0.01], 0.01, 1), ([None], None, 1), ([0.4, 0.02], 0.02, 2), ([0.4, 0.3, 0.5], 0.3, 3)],
)
def test_contended_timings_are_repeated_and_the_quietest_is_kept(monkeypatch, caplog, waits, kept, measured):
    left = list(waits)
    monkeypatch.setattr(latency.Waiting, "fraction", lambda self: left.pop(0))
    found = latency.time_call(lambda: None, seconds=0, min_runs=1)
    assert found.cpu_wait == kept and len(waits) - len(left) == measured
    assert found.contended == (kept == 0.3) == ("other programs used the CPU" in caplog.text)


def test_lock_nests_and_is_shared_by_users(own_lock):
    with latency.timing_lock(), latency.timing_lock():
        assert own_lock.stat().st_mode & 0o777 == 0o666
    own_lock.chmod(0o444)
    with latency.timing_lock():
        pass


def test_lock_that_cannot_be_opened_is_a_users_error(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "LOCK", tmp_path / "missing" / "lock")
    with pytest.raises(UserError, match="lock"), latency.timing_lock():
        pass
