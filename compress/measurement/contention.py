"""Detects other programs that use the CPU during a measurement. For each thread, Linux records how long it ran and how
long it was ready but waited for a CPU (`/proc/<pid>/task/<tid>/schedstat`,
https://docs.kernel.org/scheduler/sched-stats.html), and for a virtual machine, how long its host ran others instead
(`steal` in `/proc/stat`). Programs on other cores cause no waiting and do not count."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

CONTENDED = 0.05  # fraction of time that threads waited; about 0.01 without other programs on 2 cores
TASKS = Path("/proc/self/task")
STAT = Path("/proc/stat")


class Waiting:
    """Measures, from its creation on, how long this process waits for CPUs."""

    def __init__(self) -> None:
        self._threads, self._stolen = _threads(), _stolen()

    def fraction(self) -> float | None:
        """Time that this process's threads waited for a CPU, as a fraction of the time that they ran or waited. None if
        the system does not record it or no thread ran."""
        running = waiting = 0
        for thread, (ran, waited) in _threads().items():
            ran_before, waited_before = self._threads.get(thread, (0, 0))
            running += ran - ran_before
            waiting += waited - waited_before
        waiting += _stolen() - self._stolen
        return min(waiting / (running + waiting), 1.0) if running > 0 else None


def _threads() -> dict[str, tuple[int, int]]:
    """{thread: (nanoseconds that it ran, nanoseconds that it waited)}."""
    times = {}
    with suppress(OSError):
        for task in TASKS.iterdir():
            with suppress(OSError, ValueError):  # the thread has ended
                ran, waited, _ = (task / "schedstat").read_text().split()
                times[task.name] = int(ran), int(waited)
    return times


def _stolen() -> int:
    """Nanoseconds for which the host of this virtual machine ran others on its CPUs."""
    with suppress(OSError, ValueError, IndexError):
        ticks = int(STAT.read_text().split("\n", 1)[0].split()[8])
        return ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    return 0
