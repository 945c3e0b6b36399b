"""Energy that the CPU packages of this machine used, from the RAPL counters of Intel and AMD
(https://docs.kernel.org/power/powercap/powercap.html). Linux lets only root read them; virtual machines have none."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class Energy:
    """Measures, from its creation on, the energy of all CPU packages: of every program, and of idle parts too."""

    def __init__(self) -> None:
        self._before = _counters()

    def joules(self) -> float | None:
        """None if the counters cannot be read."""
        after, used = _counters(), 0
        if not self._before or self._before.keys() != after.keys():
            return None
        for zone, (value, limit) in after.items():
            change = value - self._before[zone][0]
            used += change if change >= 0 else change + limit  # the counter began again at 0
        return used / 1e6


def available() -> bool:
    """Whether this process can read the counters."""
    return bool(_counters())


def _counters() -> dict[str, tuple[int, int]]:
    """{package: (microjoules, largest value of its counter)}; empty if one cannot be read."""
    counters: dict[str, tuple[int, int]] = {}
    with suppress(OSError, ValueError):
        for zone in sorted(POWERCAP.glob("intel-rapl:*")):  # AMD's have the same name
            if (zone / "name").read_text().startswith("package"):
                limit = int((zone / "max_energy_range_uj").read_text())
                counters[zone.name] = int((zone / "energy_uj").read_text()), limit
        return counters
    return {}
