from __future__ import annotations

import logging
from pathlib import Path

import pytest

from compress import devices
from compress.cache import Cache
from compress.config import Config, DeviceConfig, ExportConfig, Figure, MissionConfig
from compress.errors import TargetFailed, UserError
from compress.ledger import Row
from compress.targets.converter import Converter
from tests.fakes import small_model

PEAKS = {"fp32": Figure(100, "a table"), "int8": Figure(400, "a table")}
BOARD = DeviceConfig(
    "board", precisions=["int8", "fp32"], peak_gops=PEAKS, bandwidth_gb_s=Figure(10, "a table"),
    loaded_watts=Figure(10, "a meter"),
)  # fmt: skip
FLIGHT = MissionConfig(battery_wh=50, hover_watts=140, fps=30)


def rows(*files: tuple[str, str]) -> list[Row]:
    return [Row("export", target, precision, imgsz=8, macs=1000) for target, precision in files]


@pytest.fixture
def converter(tmp_path: Path) -> Converter:
    return Converter(tmp_path, ExportConfig(), Cache(tmp_path / "cache"))


def remarks(config: Config, ledger: list[Row], converter: Converter) -> list[devices.forecast.Remark]:
    return devices.remarks(config, ledger, (small_model(), small_model()), converter)


def test_files_that_the_chip_supports_are_predicted(converter: Converter) -> None:
    ledger = rows(("onnxruntime", "int8"), ("onnxruntime", "fp32"), ("tensorrt", "fp16"))
    [remark] = remarks(Config(device=BOARD), ledger, converter)
    assert remark.kind == "predicted_latency" and remark.lasting
    assert list(remark.numbers) == ["onnxruntime/int8", "onnxruntime/fp32"]
    assert 0 < remark.numbers["onnxruntime/int8"] <= remark.numbers["onnxruntime/fp32"]
    assert "the profile of board alone" in remark.text and "10 W, x latency" in remark.text
    assert "not judged" in remark.text and "Unknown" not in remark.text


def test_what_stands_on_nothing_is_unknown(converter: Converter) -> None:
    board = DeviceConfig("board", peak_gops={"int8": PEAKS["int8"]})
    [remark] = remarks(Config(device=board), rows(("openvino", "int8")), converter)
    assert remark.numbers == {} and "no memory bandwidth in its profile" in remark.text
    assert remarks(Config(device=board), [], converter) == []


def test_this_machine_is_measured_and_not_predicted(converter: Converter) -> None:
    assert remarks(Config(), rows(("onnxruntime", "fp32")), converter) == []


def test_a_mission_has_minutes_before_and_after(converter: Converter) -> None:
    ledger = rows(("onnxruntime", "int8"), ("onnxruntime", "fp32"))
    latency, flight = remarks(Config(device=BOARD, mission=FLIGHT), ledger, converter)
    numbers = flight.numbers
    assert latency.kind == "predicted_latency" and flight.kind == "flight_time"
    assert numbers["before_minutes"] <= numbers["after_minutes"] < numbers["limit_minutes"] == 60 * 50 / 140
    assert "upper bound" in flight.text  # its idle power is not known


def test_a_mission_names_its_own_board(converter: Converter) -> None:
    mission = MissionConfig(battery_wh=50, hover_watts=140, device="raspberry_pi_5")
    [flight] = remarks(Config(mission=mission), rows(("onnxruntime", "int8")), converter)
    assert "raspberry_pi_5 on board" in flight.text and "upper bound" not in flight.text
    [flight] = remarks(Config(mission=mission), rows(("onnxruntime", "int8"), ("tensorrt", "int8")), converter)
    assert "onnxruntime/int8" in flight.text and "tensorrt" not in flight.text  # which the board does not run
    mission.device = "raspbery_pi_5"
    with pytest.raises(UserError, match="device=raspbery_pi_5: there is no such choice; did you mean raspberry_pi_5"):
        devices.check(Config(mission=mission))


def test_without_power_the_minutes_are_unknown(converter: Converter) -> None:
    board = DeviceConfig("board", peak_gops=PEAKS, bandwidth_gb_s=Figure(10, "a table"))
    _, flight = remarks(Config(device=board, mission=FLIGHT), rows(("onnxruntime", "int8")), converter)
    assert flight.numbers == {} and "its power under load is not known" in flight.text


def test_a_network_that_cannot_be_converted_has_no_predictions(
    converter: Converter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> None:
        raise TargetFailed("no such operator")

    monkeypatch.setattr(converter, "fp32", refuse)
    with caplog.at_level(logging.WARNING):
        assert remarks(Config(device=BOARD), rows(("onnxruntime", "int8")), converter) == []
    assert "no predictions: no such operator" in caplog.text


def test_a_damaged_measurement_is_an_error_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_DEVICES", str(tmp_path))
    (tmp_path / "raspberry_pi_5").mkdir()
    (tmp_path / "raspberry_pi_5" / "cut.json").write_text("{")
    devices.check(Config())
    with pytest.raises(UserError, match="cut.json.*compress devices remove"):
        devices.check(Config(device=DeviceConfig(name="raspberry_pi_5")))
