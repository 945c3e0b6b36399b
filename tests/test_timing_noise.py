from __future__ import annotations

from typing import Any

import pytest

from compress.ledger import Latency
from compress.timing_noise import differ, in_turns, speed


def timed(median: float | None, low: float | None = None, high: float | None = None, **more: Any) -> Latency:
    return Latency(median, low=low, high=high, **more)


@pytest.mark.parametrize(
    ("first", "second", "differs"),
    [
        (timed(1.0), timed(2.0), True),
        (timed(1.0), timed(1.02), False),  # the same file scatters that much
        (timed(1.0, 0.95, 1.3), timed(1.2, 1.18, 1.25), False),  # their ranges meet
        (timed(1.0, 0.95, 1.1), timed(1.2, 1.18, 1.25), True),
        (timed(1.0), timed(5.0, contended=True), None),
        (timed(1.0, contended=True), timed(5.0), None),
        (timed(1.0, contended=False), timed(5.0, contended=False), True),
        (timed(None), timed(5.0), None),
        (None, timed(5.0), None),
        (None, None, None),
    ],
)
def test_differ(first: Latency | None, second: Latency | None, differs: bool | None) -> None:
    assert differ(first, second) is differs
    assert differ(second, first) is differs


def test_what_was_timed_in_turns_is_compared_by_that() -> None:
    """The machine slowed down between the two: medians say ×1.5, turns with the baseline ×0.8."""
    first = timed(1.0, 0.9, 1.1, ratio=1.0, ratio_ci95=(1.0, 1.0))
    second = timed(1.5, 1.4, 1.6, ratio=0.8, ratio_ci95=(0.75, 0.85))
    assert speed(first, second) == pytest.approx(0.8) and differ(first, second) is True
    unsure = timed(1.5, 1.4, 1.6, ratio=0.8, ratio_ci95=(0.6, 1.0))
    assert speed(first, unsure) == pytest.approx(0.8) and differ(first, unsure) is False
    elsewhere = timed(3.0)  # on a device, without the baseline
    assert speed(first, elsewhere) == 3 and differ(first, elsewhere) is True
    assert in_turns(first, second) and not in_turns(first, elsewhere)
    assert speed(first, None) is None and speed(timed(None), first) is None
