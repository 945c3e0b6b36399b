"""Power of this device while a model runs, from the sensors of the system. Needs nothing but Linux."""

import contextlib
import functools
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

SECONDS = 0.05  # between two readings
HWMON = pathlib.Path("/sys/class/hwmon")
POWERCAP = pathlib.Path("/sys/class/powercap")
WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0", "VIN")  # channels of Jetson boards, as tegrastats names them


class Reading:
    """Mean power during a `with` block: `watts` and `source`, which are None without a sensor."""

    watts: "float | None" = None
    source: "str | None" = None


@contextlib.contextmanager
def reading(by_hand: "float | None" = None) -> "Iterator[Reading]":
    """Measures the mean power of the block. A value `by_hand` in watts, from an external meter, is taken instead."""
    result = Reading()
    if by_hand is not None:
        result.watts, result.source = by_hand, "given by hand"
        yield result
        return
    found = current_sensor()
    energy, start = None if found else package_joules(), time.perf_counter()
    samples: list[float] = []
    over = threading.Event()

    def sample(read: "Callable[[], float]") -> None:
        while not over.wait(SECONDS):
            with contextlib.suppress(OSError, ValueError):
                samples.append(read())

    thread = threading.Thread(target=sample, args=(found[1],), daemon=True) if found else None
    if thread:
        thread.start()
    try:
        yield result
    finally:
        over.set()
        if thread:
            thread.join()
    if found and samples:
        result.watts, result.source = sum(samples) / len(samples), found[0]
    elif energy is not None and (after := package_joules()) is not None and after > energy:
        result.watts, result.source = (after - energy) / (time.perf_counter() - start), "RAPL, CPU packages only"


def current_sensor() -> "tuple[str, Callable[[], float]] | None":
    """(name, function that returns watts) of an INA sensor: of the whole board if a channel has that name, else of its
    first channel. None if there is none."""
    channels: list[tuple[bool, str, Callable[[], float]]] = []
    with contextlib.suppress(OSError):
        for chip in sorted(HWMON.iterdir()):
            with contextlib.suppress(OSError):
                kind = (chip / "name").read_text().strip()
                for current in sorted(chip.glob("curr[0-9]_input")) if kind.startswith("ina") else ():
                    number = current.name[4]
                    label_file, volts = chip / f"in{number}_label", chip / f"in{number}_input"
                    label = label_file.read_text().strip() if label_file.exists() else f"channel {number}"
                    whole = label in WHOLE_BOARD
                    channels.append((whole, f"{kind} {label}", functools.partial(_watts, current, volts)))
    if not channels:
        return None
    _, name, read = max(channels, key=lambda channel: channel[0])  # the first of several
    return name, read


def package_joules() -> "float | None":
    """Energy counters of all CPU packages; None if they cannot be read."""
    total, found = 0.0, False
    try:
        for zone in POWERCAP.glob("intel-rapl:*"):
            if (zone / "name").read_text().startswith("package"):
                total, found = total + _number(zone / "energy_uj") / 1e6, True
    except (OSError, ValueError):
        return None
    return total if found else None


def _watts(current: pathlib.Path, volts: pathlib.Path) -> float:
    """From milliamperes and millivolts."""
    return _number(current) * _number(volts) / 1e6


def _number(path: pathlib.Path) -> float:
    return float(path.read_text())
