"""Steps, learning rate and EMA decay."""

from __future__ import annotations

import math
from typing import Any

import pytest

from compress.training.schedule import Schedule


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("images", 0), ("batch", 0), ("learning_rate", 0.0), ("learning_rate", -1.0), ("learning_rate", math.inf),
        ("learning_rate", math.nan), ("optimizer", "lion"), ("momentum", 1.0), ("momentum", -0.1),
        ("weight_decay", -1e-4), ("weight_decay", math.nan), ("warmup", 1.0), ("warmup", -0.1), ("ema", 1.0),
        ("clip", -1.0), ("clip", math.nan), ("final", 1.1),
    ],
)  # fmt: skip
def test_a_schedule_is_checked(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"Schedule\.{field} must be .*{value}"):
        Schedule(**{"images": 100, field: value})


def test_steps_are_rounded_up() -> None:
    assert [Schedule(images=images, batch=16).steps for images in (1, 16, 17, 160)] == [1, 1, 2, 10]


def test_rate() -> None:
    plan = Schedule(images=1110, batch=10, learning_rate=0.2, warmup=10 / 111, final=0.1)
    assert plan.steps == 111
    assert [plan.rate(step) for step in (0, 4, 9)] == pytest.approx([0.02, 0.1, 0.2])  # a tenth a step
    # 10 to 110 is half a cosine from 0.2 down to 0.02, whose middle is 0.11
    quarter = 0.2 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert [plan.rate(step) for step in (10, 35, 60, 110)] == pytest.approx([0.2, quarter, 0.11, 0.02])
    falling = [plan.rate(step) for step in range(10, 111)]
    assert falling == sorted(falling, reverse=True)


def test_rate_without_warmup_and_of_a_single_step() -> None:
    assert Schedule(images=100, batch=10, warmup=0.0, learning_rate=0.2).rate(0) == pytest.approx(0.2)
    assert Schedule(images=1, learning_rate=0.2).rate(0) == pytest.approx(0.2)


def test_decay() -> None:
    plan = Schedule(images=100, batch=1, ema=0.999)
    assert plan.decay(0) == 0
    assert plan.decay(5) == pytest.approx(0.5 * (1 - math.exp(-1)))  # a fiftieth of 100 steps is its reach
    assert plan.decay(10**6) == pytest.approx(0.5)
    assert Schedule(images=10**6, batch=1, ema=0.999).decay(10**7) == pytest.approx(0.999)
    assert Schedule(images=8, batch=1).decay(8) == 0  # too short for an average
    assert Schedule(images=100, batch=1, ema=0.0).decay(50) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("images", 1), ("batch", 1), ("momentum", 0.0), ("weight_decay", 0.0), ("warmup", 0.0), ("ema", 0.0),
        ("clip", 0.0), ("final", 0.0), ("final", 1.0), ("optimizer", "adamw"),
    ],
)  # fmt: skip
def test_values_at_the_end_of_their_range_are_allowed(field: str, value: Any) -> None:
    assert getattr(Schedule(**{"images": 100, field: value}), field) == value


def test_the_decay_only_rises_and_forgets_the_initial_weights_at_first() -> None:
    plan = Schedule(images=10_000, batch=10)
    decays = [plan.decay(updates) for updates in range(plan.steps + 1)]
    assert decays == sorted(decays) and decays[1] < 0.02
    assert decays[-1] == pytest.approx(0.95, abs=1e-6)  # 1 - 50 / 1000: a horizon of a fiftieth
