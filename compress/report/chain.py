"""The before/after chain: which row a row is compared with, and what changed.

Latencies compare only when both were measured in the same runtime, on the same device, with the same threads
and batch; accuracies only on the same metric and images. Else there is no ratio, rather than a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compress.report.run import Row
from compress.timing_noise import differ, speed

STAGES = ("load", "train", "prune", "finetune", "quantize", "export")
BASELINES = ("load", "train")  # the model as loaded, or as trained by the recipe's own stage
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Change:
    """From one row to a later one. `flops` and `latency` are later / earlier; `accuracy` is later - earlier,
    in the metric's points. `precisions` is set where the runtime computed in another precision; `latency_differs`
    is that of `timing_noise.differ`."""

    flops: float | None = None
    accuracy: float | None = None
    latency: float | None = None
    precisions: tuple[str, str] | None = None
    latency_differs: bool | None = None


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return None
    return found if math.isfinite(found) else None


def part(row: Row, name: str) -> dict[str, Any]:
    """The sub-object `name` of a row; empty where it is null."""
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def torch_rows(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.get("target") is None]


def start_of(rows: Sequence[Row]) -> Row | None:
    """The torch FP32 baseline: what accuracy drops and FLOP budgets are counted from."""
    torch = torch_rows(rows)
    found = [row for row in torch if row["stage"] in BASELINES]
    return found[-1] if found else (torch[0] if torch else None)


def final_rows(rows: Sequence[Row]) -> list[Row]:
    """For torch and for each target: the rows of the last stage it reached."""
    targets = list(dict.fromkeys(row.get("target") for row in rows))
    chosen: list[Row] = []
    for target in targets:
        mine = [row for row in rows if row.get("target") == target]
        last = max(mine, key=lambda row: _rank(STAGES, row["stage"]))["stage"]
        chosen += [row for row in mine if row["stage"] == last]
    return chosen


def change_from_start(rows: Sequence[Row], row: Row) -> Change:
    """FLOPs and accuracy against the torch baseline; latency against the baseline in the same runtime."""
    start = start_of(rows)
    if start is None or start is row or (row["stage"] == "load" and start["stage"] != "load"):
        return Change()
    timed = [r for r in rows if r["stage"] == start["stage"] and r is not row and _same_timing(r, row)]
    return _change(start, start, timed[0] if timed else None, row)


def change_from_before(rows: Sequence[Row], row: Row) -> Change:
    """Against the row that precedes this one in the chain of its target (see `before`)."""
    return _change(before(rows, row), before(rows, row), _before_in_time(rows, row), row)


def change_to(first: Row, row: Row) -> Change:
    """From a row of one run to a row of another."""
    return _change(first, first, first if _same_timing(first, row) else None, row)


def before(rows: Sequence[Row], row: Row) -> Row | None:
    """The same target one door earlier, in the same precision if there was one (INT8 follows FP32); a
    target's first row follows the torch row it was converted from."""
    earlier = [r for r in rows if r.get("target") == row.get("target") and _precedes(r, row)]
    if earlier:
        return _closest(earlier, row)
    if row.get("target") is None:
        return None
    torch = [r for r in torch_rows(rows) if _rank(STAGES, r["stage"]) <= _rank(STAGES, row["stage"])]
    return torch[-1] if torch else None


def _before_in_time(rows: Sequence[Row], row: Row) -> Row | None:
    earlier = [r for r in rows if _precedes(r, row) and _same_timing(r, row)]
    return _closest(earlier, row) if earlier else None


def _precedes(first: Row, second: Row) -> bool:
    if first is second or _precision(first) > _precision(second):
        return False
    return (_rank(STAGES, first["stage"]), _precision(first)) < (
        _rank(STAGES, second["stage"]),
        _precision(second),
    )


def _closest(earlier: list[Row], row: Row) -> Row:
    same = [r for r in earlier if r.get("precision") == row.get("precision")]
    return max(same or earlier, key=lambda r: (_rank(STAGES, r["stage"]), _precision(r)))


def _change(flops: Row | None, accuracy: Row | None, latency: Row | None, row: Row) -> Change:
    ratio = _ratio(number(row.get("flops")), number(flops.get("flops")) if flops else None)
    points = None
    if accuracy is not None:
        a, b = part(accuracy, "accuracy"), part(row, "accuracy")
        old, new = number(a.get("value")), number(b.get("value"))
        same = all(a.get(name) == b.get(name) for name in ("metric", "images"))
        points = new - old if same and new is not None and old is not None else None
    if latency is None:
        return Change(ratio, points)
    old_time, new_time = part(latency, "latency_ms"), part(row, "latency_ms")
    faster = speed(old_time, new_time)
    was, now = (str(t.get("inference_precision") or "?") for t in (old_time, new_time))
    return Change(ratio, points, faster, (was, now) if was != now else None, differ(old_time, new_time))


def _same_timing(first: Row, second: Row) -> bool:
    a, b = part(first, "latency_ms"), part(second, "latency_ms")
    if first.get("target") != second.get("target") or first.get("imgsz") != second.get("imgsz"):
        return False
    if a.get("obtained") != "measured" or b.get("obtained") != "measured":
        return False
    return all(a.get(name) == b.get(name) for name in ("runtime", "device", "threads", "batch"))


def _ratio(new: float | None, old: float | None) -> float | None:
    return new / old if new is not None and old else None


def _rank(order: Sequence[str], value: Any) -> int:
    return order.index(value) if value in order else len(order)


def _precision(row: Row) -> int:
    return _rank(PRECISIONS, row.get("precision"))
