"""Whether other programs took the CPU while something was timed.

Linux keeps, for each thread, how long it computed and how long it stood ready while others had the CPU
(`/proc/<pid>/task/<tid>/schedstat`, https://docs.kernel.org/scheduler/sched-stats.html), and how long a virtual machine
was held up by its host (`steal` in `/proc/stat`). A busy neighbour on a free core costs nothing and is not counted.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

CONTENDED = 0.05  # of the time that threads could have computed; alone on 2 cores it is about 0.01
TASKS = Path("/proc/self/task")
STAT = Path("/proc/stat")


class Waiting:
    """Counts from its creation on."""

    def __init__(self) -> None:
        self._threads, self._stolen = _threads(), _stolen()

    def share(self) -> float | None:
        """The part of the time in which this process's threads wanted to compute that they waited for a CPU, in
        [0, 1]; None where the system does not tell, or nothing was computed."""
        computed = waited = 0
        for thread, (ran, stood) in _threads().items():
            ran_before, stood_before = self._threads.get(thread, (0, 0))
            computed += ran - ran_before
            waited += stood - stood_before
        waited += _stolen() - self._stolen
        return min(waited / (computed + waited), 1.0) if computed > 0 else None


def _threads() -> dict[str, tuple[int, int]]:
    """Nanoseconds that each thread computed, and stood ready."""
    found = {}
    with suppress(OSError):
        for task in TASKS.iterdir():
            with suppress(OSError, ValueError):  # a thread that ended meanwhile
                ran, stood, _ = (task / "schedstat").read_text().split()
                found[task.name] = int(ran), int(stood)
    return found


def _stolen() -> int:
    """Nanoseconds in which the host of a virtual machine gave this machine's CPUs to others."""
    with suppress(OSError, ValueError, IndexError):
        ticks = int(STAT.read_text().split("\n", 1)[0].split()[8])
        return ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    return 0
