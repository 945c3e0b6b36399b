from __future__ import annotations

from typing import Any

import pytest

from compress.timing_noise import differ


def timed(median: float | None, low: float | None = None, high: float | None = None, **more: Any) -> dict[str, Any]:
    return {"median": median, "low": low, "high": high, **more}


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
        ({}, {}, None),
    ],
)
def test_differ(first: dict[str, Any] | None, second: dict[str, Any] | None, differs: bool | None) -> None:
    assert differ(first, second) is differs
    assert differ(second, first) is differs
