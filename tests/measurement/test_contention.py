from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress.measurement import contention

BUSY = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); print('busy', flush=True)\nwhile True: pass"


def compute(seconds: float) -> float | None:
    waiting, end = contention.Waiting(), time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
    return waiting.fraction()


@pytest.mark.skipif(not contention.TASKS.exists(), reason="only Linux tells how long threads waited")
def test_a_program_on_the_same_cpu_is_noticed() -> None:
    everywhere = os.sched_getaffinity(0)
    cpu = min(everywhere)
    os.sched_setaffinity(0, {cpu})  # of this thread
    try:
        with subprocess.Popen([sys.executable, "-c", BUSY, str(cpu)], stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None and other.stdout.readline() == "busy\n"
            shared = compute(1)
            other.kill()
    finally:
        os.sched_setaffinity(0, everywhere)
    assert shared is not None and 0.2 < shared <= 1  # both want all of one CPU


@pytest.mark.parametrize(
    ("before", "after", "stolen", "fraction"),
    [
        ({"1": "100 0 1"}, {"1": "200 0 2"}, (0, 0), 0.0),
        ({"1": "100 0 1"}, {"1": "400 100 2"}, (0, 0), 0.25),
        ({"1": "0 0 1", "2": "500 900 1"}, {"1": "300 100 2"}, (0, 0), 0.25),  # a thread that ended
        ({"1": "0 0 1"}, {"1": "200 0 2", "2": "100 100 1"}, (0, 0), 0.25),  # one that began
        ({"1": "0 0 1"}, {"1": "30000000 0 2"}, (3, 4), 0.25),  # 10 ms taken by the machine's host
        ({"1": "0 0 1"}, {"1": "0 0 1"}, (0, 0), None),
        ({}, {}, (0, 0), None),
        ({"1": "0 0"}, {"1": "what is this"}, (0, 0), None),
    ],
)
def test_fraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, str], after: dict[str, str],
    stolen: tuple[int, int], fraction: float | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(contention, "TASKS", tmp_path / "task")
    monkeypatch.setattr(contention, "STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sysconf", lambda name: 100)

    def system(tasks: dict[str, str], ticks: int) -> None:
        (tmp_path / "stat").write_text(f"cpu  1 2 3 4 5 6 7 {ticks} 0 0\ncpu0 1\n")
        for name, line in tasks.items():
            (tmp_path / "task" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "task" / name / "schedstat").write_text(line)

    system(before, stolen[0])
    waiting = contention.Waiting()
    for name in before.keys() - after.keys():
        (tmp_path / "task" / name / "schedstat").unlink()
    system(after, stolen[1])
    assert waiting.fraction() == (fraction if fraction is None else pytest.approx(fraction, abs=0.02))
