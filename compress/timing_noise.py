"""Whether one latency differs from another, or both are the same within what timing scatters.

Machines drift: the same file takes a half longer some minutes later. So latencies are compared by `ratio`, the share of
the baseline's time that a row took in turns with it, and only where there is none by their medians.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

TIMING_NOISE = 0.03  # smaller differences are a tie: what the same file scatters from run to run

Timing = Mapping[str, Any] | None  # a row's `latency_ms`


class Range(NamedTuple):
    low: float
    middle: float
    high: float


def speed(first: Timing, second: Timing) -> float | None:
    """The time of `second` over that of `first`; None where one is unknown."""
    pair = _comparable(first, second)
    return None if pair is None else pair[1].middle / pair[0].middle


def differ(first: Timing, second: Timing) -> bool | None:
    """Whether two latencies are further apart than `TIMING_NOISE` and their ranges do not meet. None where that cannot
    be said: one is unknown, or was measured while other programs took the CPU (`contended`)."""
    pair = None if contended(first) or contended(second) else _comparable(first, second)
    if pair is None:
        return None
    fast, slow = sorted(pair, key=lambda found: found.middle)
    return slow.middle > (1 + TIMING_NOISE) * fast.middle and slow.low > fast.high


def contended(timing: Timing) -> bool:
    return bool((timing or {}).get("contended"))


def in_turns(first: Timing, second: Timing) -> bool:
    """Whether both were timed in turns with the same baseline."""
    return _in_turns(first) is not None and _in_turns(second) is not None


def _comparable(first: Timing, second: Timing) -> tuple[Range, Range] | None:
    by = _in_turns if in_turns(first, second) else _alone
    a, b = by(first), by(second)
    return None if a is None or b is None else (a, b)


def _in_turns(timing: Timing) -> Range | None:
    found = timing or {}
    bounds = found.get("ratio_ci95")
    low, high = bounds if isinstance(bounds, list | tuple) and len(bounds) == 2 else (None, None)
    return _range(low, found.get("ratio"), high)


def _alone(timing: Timing) -> Range | None:
    found = timing or {}
    return _range(found.get("low"), found.get("median"), found.get("high"))


def _range(low: object, middle: object, high: object) -> Range | None:
    center = _positive(middle)
    return None if center is None else Range(_positive(low) or center, center, _positive(high) or center)


def _positive(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
