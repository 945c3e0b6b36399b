from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from compress.config import DeviceConfig, Figure, device_profiles
from compress.devices import energy
from compress.profiling.predictions import forecasts, table
from tests.profiling.profiles import COUNTED


def test_every_precision_of_a_device_is_predicted() -> None:
    found, unknown = forecasts([COUNTED], device_profiles(["raspberry_pi_5", "jetson_orin_nano", "coral"]))
    groups = [(each.device, each.runtime, each.precision) for each in found]
    assert groups[:3] == [("raspberry_pi_5", "onnxruntime", precision) for precision in ("int8", "fp16", "fp32")]
    assert groups[3:] == [("jetson_orin_nano", "tensorrt", "int8"), ("jetson_orin_nano", "tensorrt", "fp16")]
    assert list(unknown) == ["coral"] and "no memory bandwidth in its profile" in unknown["coral"]


def test_quantized_and_uncounted_models_are_not_predicted() -> None:
    devices = device_profiles(["raspberry_pi_5"])
    uncounted = replace(COUNTED, operators=(), cost=replace(COUNTED.cost, unknown={"Det": 1}))
    found, unknown = forecasts([replace(COUNTED, operators=())], devices)
    assert found == [] and "it is quantized" in unknown["raspberry_pi_5"]
    assert "without a formula (Det)" in forecasts([uncounted], devices)[1]["raspberry_pi_5"]


def test_energy_is_power_times_latency() -> None:
    peak = {"int8": Figure(100, "a table")}
    board = DeviceConfig("b", precisions=["int8"], peak_gops=peak, bandwidth_gb_s=Figure(10, "a table"))
    (without,), _ = forecasts([COUNTED], {"b": board})
    board.loaded_watts = Figure(8, "a meter")
    (known,), _ = forecasts([COUNTED], {"b": board})
    assert without.energy_mj is None and known.energy_mj == pytest.approx(8 * known.prediction.ms)
    console = Console(file=io.StringIO(), width=300)
    console.print(table([without, known]))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "the profile of b alone" in shown and f"{known.prediction.ms:.3g}" in shown
    work = energy.of_work(5_000_000, 0, 236_072, 4 * 1458, "int8")
    assert known.work_mj == work and known.as_dict()["work_mj"] == {"low": work.low, "high": work.high}
    assert f"{work.low:.3g} to {work.high:.3g}" in shown
    assert known.as_dict()["ms"] == known.prediction.ms and known.as_dict()["device"] == "b"
