"""From a frame rate on a device to a limit on the latency."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compress import devices
from compress.config import BudgetConfig, Config, DeviceConfig
from compress.errors import UserError


def config(fps: float = 100.0, **budget: Any) -> Config:
    return Config(stages=["prune"], device=DeviceConfig("board"), budget=BudgetConfig(fps=fps, **budget))


def refusal(config: Config) -> str:
    with pytest.raises(UserError) as caught:
        devices.resolve(config)
    return str(caught.value)


def test_a_frame_rate_becomes_milliseconds() -> None:
    budget = devices.resolve(config(100)).budget
    assert (budget.flops, budget.latency_ms, budget.fps) == (None, 10.0, 100)


def test_what_was_resolved_is_left_alone() -> None:
    once = devices.resolve(config(30))  # 33.3 ms do not come out even
    assert devices.resolve(once) == once
    plain = replace(config(), budget=BudgetConfig(flops="50%"))
    assert devices.resolve(plain) is plain


def test_the_budget_is_said_once() -> None:
    assert "budget.flops=50% also sets the budget" in refusal(config(flops="50%"))
    assert "set budget.latency_ms=null" in refusal(config(latency_ms=5.0))
    both = config()
    both.prune.ratio = 0.3
    assert "prune.ratio=0.3 also sets the budget" in refusal(both)


def test_this_machine_needs_a_name() -> None:
    assert refusal(replace(config(), device=DeviceConfig())).startswith("budget.fps=100.0: set device to the one")


def test_what_pruning_refuses_is_said_of_the_frame_rate() -> None:
    asked = devices.resolve(config(100))
    mistake = UserError("budget.latency_ms", "10", "pruning can reach 20 to 50 ms: raise the limit")
    renamed = "budget.fps=100: is 10 ms on board: pruning can reach 20 to 50 ms"
    with pytest.raises(UserError, match=renamed), devices.fps_named_in_errors(asked):
        raise mistake
    with pytest.raises(UserError, match="^budget.latency_ms=10"), devices.fps_named_in_errors(Config()):
        raise mistake
    with pytest.raises(UserError, match="^model=net"), devices.fps_named_in_errors(asked):
        raise UserError("model", "net", "cannot be traced")
