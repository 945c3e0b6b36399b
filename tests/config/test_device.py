from __future__ import annotations

import pytest

from compress.config import CONF, Basis, DeviceConfig, Figure, compose, device_profiles
from compress.errors import UserError


def test_a_precision_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match=r"device\.precisions=int4: choose from fp32, fp16, int8"):
        DeviceConfig("board", precisions=["int4"])


def test_a_device_may_be_named_alone() -> None:
    device = DeviceConfig("board")
    assert device.targets and device.precisions == [] and device.int8_saturates is None


def test_a_figure_has_a_value_and_a_source() -> None:
    device = compose(["recipe=drone_nano", "device=raspberry_pi_5"]).device
    assert device.peak_gops["fp32"].basis is Basis.derived and device.figures()["bandwidth_gb_s"].source
    with pytest.raises(UserError, match=r"device\.peak_gops\.int8\.value=0"):
        DeviceConfig("board", peak_gops={"int8": Figure(0, "a table")})
    with pytest.raises(UserError, match=r"device\.idle_watts\.source=' '"):
        DeviceConfig("board", idle_watts=Figure(1.6, " "))
    with pytest.raises(UserError, match=r"device\.peak_gops=int4: choose from fp32, fp16, int8"):
        DeviceConfig("board", peak_gops={"int4": Figure(1, "a table")})


GENERAL = {"host", "android_phone", "microcontroller"}  # no single device: without figures
LISTED = {
    "raspberry_pi_4", "raspberry_pi_5", "raspberry_pi_zero_2", "jetson_nano", "jetson_orin_nano", "jetson_orin_nx",
    "jetson_agx_orin", "jetson_agx_thor", "core_ultra_155h", "core_ultra_155h_gpu", "core_ultra_155h_npu", "n100",
    "snapdragon_8_gen_3", "snapdragon_8_elite", "apple_a17_pro", "apple_a18", "rk3588", "rk3588_npu", "hailo_8",
    "hailo_8l", "coral", "stm32h7", "stm32f7", "stm32u5", "esp32s3", "ethos_u55", "ethos_u65", "t4",
}  # fmt: skip


def test_every_profile_has_figures_with_sources() -> None:
    profiles = device_profiles()
    assert set(profiles) == {path.stem for path in (CONF / "device").glob("*.yaml")} and set(profiles) > LISTED
    for name, device in profiles.items():
        assert device.name == name
        assert bool(device.figures()) == (name not in GENERAL), name
        for key, figure in device.figures().items():
            assert figure.value > 0 and len(figure.source) > 10, (name, key)


def test_figures_are_consistent() -> None:
    """Less precise numbers are not slower, nothing idles at more than its load, and a halved rate says so."""
    for name, device in device_profiles().items():
        peaks = [device.peak_gops[each].value for each in ("fp32", "fp16", "int8") if each in device.peak_gops]
        assert peaks == sorted(peaks), name
        if device.idle_watts and device.loaded_watts:
            assert device.idle_watts.value < device.loaded_watts.value, name
        for figure in device.figures().values():
            if "sparse" in figure.source and "dense" not in figure.source:
                assert figure.basis is Basis.derived and "/ 2" in figure.source, (name, figure)


def test_a_device_with_an_int8_peak_has_int8_files() -> None:
    for name, device in device_profiles().items():
        if device.precisions and "int8" in device.peak_gops:
            assert "int8" in device.precisions, name
