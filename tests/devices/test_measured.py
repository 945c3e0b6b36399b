"""Measurements of devices in the user's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compress.devices import measured
from compress.devices.measured import Measurement
from compress.devices.operators import Operator
from compress.devices.prediction import published
from compress.errors import UserError

OPERATORS = [Operator(100, 20, 10, 2, False, "Conv", 10), Operator(0, 20, 0, 0, False, "Relu", 10)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(measured.FOLDER, str(tmp_path))
    return tmp_path


def measurement(device: str = "raspberry_pi_5", threads: int | None = 4, ms: float = 2.0) -> Measurement:
    timed = [("net", ms, [*OPERATORS, OPERATORS[0]])]
    return Measurement.of(device, "onnxruntime", "fp32", threads, "onnxruntime 1.0", timed)


def test_a_measurement_is_among_the_known_latencies() -> None:
    path = measured.add(measurement())
    assert [*measured.files("raspberry_pi_5")] == [path]
    *others, own = measured.known("raspberry_pi_5")
    assert others == published("raspberry_pi_5")
    assert (own.network, own.ms, own.operators) == ("net", 2.0, [*OPERATORS, OPERATORS[0]])
    assert measured.known("jetson_orin_nano") == published("jetson_orin_nano")


def test_the_same_measurement_is_stored_once() -> None:
    first = measurement()
    assert measured.add(first) == measured.add(replace(first, added="later"))
    assert len(measured.files("raspberry_pi_5")) == 1
    assert measured.fingerprint("raspberry_pi_5") == [measured.add(first).name]


def test_only_latencies_with_the_last_number_of_threads_are_used() -> None:
    for threads, added in ((4, "2026-01-02"), (1, "2026-01-01")):
        measured.add(replace(measurement("mine", threads, ms=threads), added=added))
    assert [each.ms for each in measured.known("mine")] == [4]


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "Raspberry Pi"])
def test_a_device_must_have_the_name_of_a_folder(name: str, folder: Path) -> None:
    with pytest.raises(UserError, match="use the name of a profile"):
        measured.add(measurement(name))
    assert list(folder.iterdir()) == [] and measured.files(name) == {}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"ms": 2.0', "", "not JSON"),
        ('"threads"', '"other"', "absent"),
        ('"operators": [0, 1, 0]', '"operators": [0, 9, 0]', "damaged"),
        ('"ms": 2.0', '"ms": -1', "damaged"),
    ],
)
def test_a_damaged_file_is_named(old: str, new: str, reason: str) -> None:
    path = measured.add(measurement())
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=f"{path.name}.*{reason}"):
        measured.known("raspberry_pi_5")


def test_without_the_variable_the_folder_is_in_the_data_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(measured.FOLDER)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert measured.folder() == Path("/data/compress/devices")
