"""Signs that a device became slower during a measurement because it was hot. Needs nothing but Linux, and numpy."""

import contextlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CPUS = pathlib.Path("/sys/devices/system/cpu")
ZONES = pathlib.Path("/sys/class/thermal")
# Raspberry Pi: bits 0 to 3 are set while the voltage is too low, the frequency capped, throttled or limited by heat.
FIRMWARE = pathlib.Path("/sys/devices/platform/soc/soc:firmware/get_throttled")


class Heat(NamedTuple):
    """What a measurement showed. None where the system does not tell."""

    drift: float  # median of the last quarter of the times / median of the first - 1
    celsius: "float | None"  # of the hottest sensor
    throttled: "bool | None"  # the system reports that it slowed the CPU down


class Watch:
    """Watches the device from its creation on."""

    def __init__(self) -> None:
        self._before = _events()

    def heat(self, times: "Sequence[float] | np.ndarray") -> Heat:
        """Signs of heat until now, with the `times` of all runs in their order."""
        after = _events()
        throttled = None if after is None or self._before is None else after > self._before
        flags = _firmware_flags()
        if flags is not None:
            throttled = bool(throttled) or flags & 0xF != 0
        return Heat(drift(times), celsius(), throttled)


def drift(times: "Sequence[float] | np.ndarray") -> float:
    """Median of the last quarter / median of the first - 1, see `Heat`."""
    quarter = max(len(times) // 4, 1)
    return float(np.median(times[-quarter:]) / np.median(times[:quarter]) - 1)


def celsius() -> "float | None":
    """The hottest sensor of the system; None without any."""
    found = []
    with contextlib.suppress(OSError):
        for zone in ZONES.glob("thermal_zone*"):
            with contextlib.suppress(OSError, ValueError):  # a sensor that is switched off
                found.append(int((zone / "temp").read_text()) / 1000)
    return max(found, default=None)


def _events() -> "int | None":
    """Times that Linux slowed a core or the package down (x86 only). None if it does not count them."""
    counts = []
    with contextlib.suppress(OSError, ValueError):
        for path in CPUS.glob("cpu[0-9]*/thermal_throttle/*_throttle_count"):
            counts.append(int(path.read_text()))
    return sum(counts) if counts else None


def _firmware_flags() -> "int | None":
    with contextlib.suppress(OSError, ValueError):
        return int(FIRMWARE.read_text().strip(), 16)
    return None
