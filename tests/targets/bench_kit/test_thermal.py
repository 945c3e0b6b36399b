from __future__ import annotations

from pathlib import Path

import pytest

from compress.targets.bench_kit import thermal

STEADY = [1.0] * 8


@pytest.fixture(autouse=True)
def no_sensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CPUS", "ZONES", "FIRMWARE"):
        monkeypatch.setattr(thermal, name, tmp_path / name)


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")


def test_drift_is_of_the_last_quarter_relative_to_the_first() -> None:
    assert thermal.drift([1, 1, 5, 5, 5, 5, 2, 2]) == 1.0
    assert thermal.drift(STEADY) == thermal.drift([3.0]) == 0.0


def test_without_sensors_only_the_drift_is_known() -> None:
    assert thermal.Watch().heat(STEADY) == (0.0, None, None)


def test_the_hottest_sensor_counts() -> None:
    write(thermal.ZONES / "thermal_zone0" / "temp", 47000)
    write(thermal.ZONES / "thermal_zone1" / "temp", 81500)
    write(thermal.ZONES / "thermal_zone2" / "temp", "off")
    assert thermal.Watch().heat(STEADY).celsius == 81.5


def test_an_event_during_the_measurement_is_throttling() -> None:
    counter = thermal.CPUS / "cpu0" / "thermal_throttle" / "package_throttle_count"
    write(counter, 7)  # from before
    watch = thermal.Watch()
    assert watch.heat(STEADY).throttled is False
    write(counter, 8)
    assert watch.heat(STEADY).throttled is True


@pytest.mark.parametrize(("flags", "throttled"), [("0", False), ("50000", False), ("4", True), ("0x50005", True)])
def test_the_firmware_of_a_raspberry_pi_tells(flags: str, throttled: bool) -> None:
    """Bits from 16 on are what has happened since the start of the system."""
    write(thermal.FIRMWARE, flags)
    assert thermal.Watch().heat(STEADY).throttled is throttled
