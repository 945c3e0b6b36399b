"""From a frame rate on a device to a budget, and back to a prediction."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from compress import devices
from compress.config import BudgetConfig, Config, DeviceConfig, LatencyFit, compose
from compress.devices import fit
from compress.errors import UserError
from compress.ledger import Row

PROFILES = sorted(fit.published())
FREE = ["recipe=drone_nano", "budget.flops=null"]


def config(fps: float = 100.0, *, stages: tuple[str, ...] = ("prune", "quantize"), **budget: Any) -> Config:
    """A device of two lines: int8 takes 4 ms + 1 ms a GFLOP, fp16 3 ms + 4 ms a GFLOP."""
    lines = [LatencyFit("tensorrt", "int8", 4, 1, 0.05, [2, 20]), LatencyFit("tensorrt", "fp16", 3, 4, 0.02, [2, 20])]
    device = DeviceConfig("board", "a test", lines)
    return Config(stages=list(stages), device=device, budget=BudgetConfig(fps=fps, **budget))


def refusal(config: Config) -> str:
    with pytest.raises(UserError) as caught:
        devices.resolve(config)
    return str(caught.value)


def row(flops: int, target: str | None, precision: str) -> Row:
    return Row("export", target, precision, imgsz=640, macs=flops // 2)


# --- from a frame rate to a budget ----------------------------------------------------------------------------


def test_a_frame_rate_becomes_flops_and_milliseconds() -> None:
    budget = devices.resolve(config(100)).budget  # 10 ms: int8 has 6 GFLOPs left, fp16 1.75
    assert (budget.flops, budget.latency_ms, budget.fps) == ("6G", 10.0, 100)


def test_int8_counts_only_where_the_run_quantizes() -> None:
    assert devices.resolve(config(100, stages=("prune", "export"))).budget.flops == "1.75G"


def test_what_was_resolved_is_left_alone() -> None:
    once = devices.resolve(config(30))  # 33.3 ms do not come out even
    assert devices.resolve(once) == once
    plain = replace(config(), budget=BudgetConfig(flops="50%"))
    assert devices.resolve(plain) is plain


@pytest.mark.parametrize(
    ("gflops", "fps", "beyond"), [(1.0, 200, True), (6.0, 100, False), (46.0, 20, True)]
)  # the lines were fitted on 2 to 20
def test_an_extrapolation_is_said(gflops: float, fps: float, beyond: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert devices.resolve(config(fps)).budget.flops == f"{gflops:g}G"
    assert ("fitted on" in caplog.text) is beyond
    assert ("intercept" in caplog.text) is (gflops < 2)
    assert "tensorrt/int8" in caplog.text


def test_a_rate_that_no_network_reaches_names_the_highest() -> None:
    message = refusal(config(400))
    assert message.startswith("budget.fps=400: ")
    assert message.endswith("set less than 333")  # fp16 starts at 3 ms


def test_the_budget_is_said_once() -> None:
    assert "budget.flops=50% also sets the budget" in refusal(config(flops="50%"))
    assert "set budget.latency_ms=null" in refusal(config(latency_ms=5.0))
    both = config()
    both.prune.ratio = 0.3
    assert "prune.ratio=0.3 also sets the budget" in refusal(both)


def test_a_device_without_times_names_those_that_have_some() -> None:
    message = refusal(compose([*FREE, "budget.fps=30"]))
    assert message.startswith("budget.fps=30.0: ")
    assert "device=host" in message and all(profile in message for profile in PROFILES)


def test_times_of_a_runtime_that_the_run_does_not_make_are_none() -> None:
    message = refusal(replace(config(), targets=["openvino"]))
    assert message.startswith("targets=['openvino']: ") and "tensorrt" in message


def test_what_pruning_refuses_is_said_of_the_frame_rate() -> None:
    asked = devices.resolve(config(100))
    mistake = UserError("budget.flops", "6e+09", "the model already costs less")
    renamed = "budget.fps=100: is 6G FLOPs on board: the model already costs less"
    with pytest.raises(UserError, match=renamed), devices.fps_named_in_errors(asked):
        raise mistake
    with pytest.raises(UserError, match="^budget.flops=6e"), devices.fps_named_in_errors(Config()):
        raise mistake
    with pytest.raises(UserError, match="^model=net"), devices.fps_named_in_errors(asked):
        raise UserError("model", "net", "cannot be traced")
