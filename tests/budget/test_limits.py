from __future__ import annotations

import pytest

from compress.budget.limits import Check


@pytest.mark.parametrize(
    ("limit", "value", "met"),
    [
        (0.01, 0.01, True),
        (0.01, 0.99 - 0.98, True),  # more than 0.01 in binary
        (0.01, 0.010001, False),
        (0.0, 0.0, True),
        (0.0, 1e-12, False),  # the tolerance is relative
        (0.01, -0.5, True),
        (1e9, 1e9 + 2, False),
        (5.0, None, None),
        (5.0, float("nan"), False),
    ],
)
def test_a_limit_is_met_up_to_rounding(limit: float, value: float | None, met: bool | None) -> None:
    assert Check("budget.latency_ms", "openvino", "int8", limit, value, "ms").met is met
