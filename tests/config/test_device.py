from __future__ import annotations

from typing import Any

import pytest

from compress.config import Basis, DeviceConfig, Figure, LatencyFit, compose
from compress.errors import UserError


def test_a_precision_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match=r"device\.precisions=int4: choose from fp32, fp16, int8"):
        DeviceConfig("board", precisions=["int4"])


def test_a_device_may_be_named_alone() -> None:
    device = DeviceConfig("board")
    assert device.targets and device.precisions == [] and device.int8_saturates is None


@pytest.mark.parametrize(
    ("key", "value"), [("a_ms", 0.0), ("a_ms", float("nan")), ("b_ms_per_gflop", -1.0), ("gflops", [1.0])]
)
def test_a_fit_is_a_rising_line_with_a_range(key: str, value: object) -> None:
    LatencyFit(a_ms=2.0, b_ms_per_gflop=0.5, gflops=[1.0, 10.0])
    values: dict[str, Any] = {"a_ms": 2.0, "b_ms_per_gflop": 0.5, "gflops": [1.0, 10.0], key: value}
    with pytest.raises(UserError) as caught:
        LatencyFit(**values)
    assert caught.value.key == f"device.fits.{key}"


def test_a_figure_has_a_value_and_a_source() -> None:
    device = compose(["recipe=drone_nano", "device=raspberry_pi_5"]).device
    assert device.peak_gops["fp32"].basis is Basis.derived and device.figures()["bandwidth_gb_s"].source
    with pytest.raises(UserError, match=r"device\.peak_gops\.int8\.value=0"):
        DeviceConfig("board", peak_gops={"int8": Figure(0, "a table")})
    with pytest.raises(UserError, match=r"device\.idle_watts\.source=' '"):
        DeviceConfig("board", idle_watts=Figure(1.6, " "))
    with pytest.raises(UserError, match=r"device\.peak_gops=int4: choose from fp32, fp16, int8"):
        DeviceConfig("board", peak_gops={"int4": Figure(1, "a table")})
