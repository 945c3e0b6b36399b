"""Whether one latency differs from another, or both are the same within what timing scatters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TIMING_NOISE = 0.03  # medians closer than this share are a tie: what the same file scatters from run to run


def differ(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> bool | None:
    """Of two `latency_ms` of the ledger, whether their medians are further apart than `TIMING_NOISE` and their ranges
    (`low` to `high`, where known) do not meet. None where that cannot be said: one is unknown, or was measured while
    other programs took the CPU (`contended`)."""
    if contended(first) or contended(second):
        return None
    fast, slow = sorted((_range(first), _range(second)), key=lambda found: found[1])
    if not fast[1] or not slow[1]:
        return None
    return slow[1] > (1 + TIMING_NOISE) * fast[1] and slow[0] > fast[2]


def contended(latency: Mapping[str, Any] | None) -> bool:
    return bool((latency or {}).get("contended"))


def _range(latency: Mapping[str, Any] | None) -> tuple[float, float, float]:
    """(low, median, high); zeros where there is no number."""
    found = latency or {}
    median = _number(found.get("median")) or 0.0
    low, high = _number(found.get("low")), _number(found.get("high"))
    return low or median, median, high or median


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
