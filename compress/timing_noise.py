"""Whether two latencies differ by more than timing noise.

Machines drift: the latency of the same file can be 1.5 times as long minutes later. So latencies are compared by
`ratio`, measured in turns with the same baseline. Medians are compared only if a ratio is missing.
"""

from __future__ import annotations

from typing import NamedTuple

from compress.ledger import Latency

TIMING_NOISE = 0.03  # relative difference between runs of the same file; smaller ones are ties

Timing = Latency | None


class Range(NamedTuple):
    low: float
    middle: float
    high: float


def speed(first: Timing, second: Timing) -> float | None:
    """Latency of `second` divided by that of `first`; None if one is unknown."""
    pair = _comparable(first, second)
    return None if pair is None else pair[1].middle / pair[0].middle


def differ(first: Timing, second: Timing) -> bool | None:
    """Whether two latencies differ by more than `TIMING_NOISE` and their ranges do not overlap. None if one is unknown
    or was measured while other programs used the CPU."""
    pair = _comparable(first, second)
    if pair is None or any(timing.contended for timing in (first, second) if timing):
        return None
    fast, slow = sorted(pair, key=lambda interval: interval.middle)
    return slow.middle > (1 + TIMING_NOISE) * fast.middle and slow.low > fast.high


def in_turns(first: Timing, second: Timing) -> bool:
    """Whether both have a ratio to the baseline that they were timed in turns with."""
    return _in_turns(first) is not None and _in_turns(second) is not None


def _comparable(first: Timing, second: Timing) -> tuple[Range, Range] | None:
    a, b = map(_in_turns if in_turns(first, second) else _alone, (first, second))
    return None if a is None or b is None else (a, b)


def _in_turns(timing: Timing) -> Range | None:
    low, high = (timing and timing.ratio_ci95) or (None, None)
    return _range(low, timing.ratio, high) if timing else None


def _alone(timing: Timing) -> Range | None:
    return _range(timing.low, timing.median, timing.high) if timing else None


def _range(low: float | None, middle: float | None, high: float | None) -> Range | None:
    return Range(low or middle, middle, high or middle) if middle and middle > 0 else None
