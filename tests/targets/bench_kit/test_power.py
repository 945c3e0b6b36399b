from __future__ import annotations

import time
from pathlib import Path

import pytest

from compress.targets.bench_kit import power


@pytest.fixture(autouse=True)
def no_sensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HWMON", "POWERCAP"):
        monkeypatch.setattr(power, name, tmp_path / name)
        (tmp_path / name).mkdir()
    monkeypatch.setattr(power, "SECONDS", 0.002)


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def test_an_external_meter_is_taken_as_it_is() -> None:
    with power.reading(6.5) as reading:
        pass
    assert (reading.watts, reading.source) == (6.5, "given by hand")


def test_the_channel_of_the_whole_board_is_read() -> None:
    """As on a Jetson Orin Nano: VDD_IN is not the first channel; millivolts x milliamperes."""
    write(power.HWMON / "hwmon0", name="cpu_thermal")
    write(
        power.HWMON / "hwmon1", name="ina3221", in1_label="VDD_CPU_GPU_CV", in1_input=5000, curr1_input=100,
        in2_label="VDD_IN", in2_input=5000, curr2_input=1400,
    )  # fmt: skip
    with power.reading() as reading:
        time.sleep(0.05)
    assert reading.source == "ina3221 VDD_IN" and reading.watts == pytest.approx(7.0)


def test_the_counters_of_a_cpu_are_energy_per_time(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = power.POWERCAP / "intel-rapl:0"
    write(zone, name="package-0", energy_uj=1_000_000)
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    with power.reading() as reading:
        (zone / "energy_uj").write_text("31000000")
    assert reading.source == "RAPL, CPU packages only" and reading.watts == pytest.approx(15.0)


def test_without_a_sensor_there_is_no_power() -> None:
    with power.reading() as reading:
        pass
    assert reading.watts is None and reading.source is None
