"""Changes between ledger rows: which row each row is compared with, and by how much it differs. Latencies are compared
only if both were measured under the same `CONDITIONS`, accuracies only if metric and number of images agree. Otherwise
the change is None."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from compress.ledger import Provenance, Row
from compress.timing_noise import differ, speed

STAGES = ("load", "train", "prune", "reconstruct", "finetune", "quantize", "export")
BASELINE_STAGES = ("load", "train")  # the model as loaded, or as trained by the recipe's `train` stage
PRECISIONS = ("fp32", "fp16", "int8")
TIMED_BY = ("runtime", "device", "threads", "batch")
CONDITIONS = attrgetter("target", "imgsz", *(f"latency_ms.{name}" for name in TIMED_BY))  # equal if comparable


@dataclass(frozen=True)
class Change:
    """Difference between two rows. Ratios are later / earlier."""

    flops: float | None = None  # ratio
    accuracy: float | None = None  # later - earlier, in units of the metric
    agreement: bool = False  # `accuracy` is the agreement with the unpruned model
    latency: float | None = None  # ratio
    precisions: tuple[str, str] | None = None  # inference precisions (earlier, later), if they differ
    latency_differs: bool | None = None  # by more than noise, see `timing_noise.differ`


def torch_rows(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.target is None]


def baseline_row(rows: Sequence[Row]) -> Row | None:
    """The torch FP32 row that accuracy drops and FLOP budgets refer to."""
    return next((row for row in reversed(rows) if row.target is None and row.stage in BASELINE_STAGES), None)


def final_rows(rows: Sequence[Row]) -> list[Row]:
    """For torch and for each target, the rows of the last stage it reached."""
    final: list[Row] = []
    for target in dict.fromkeys(row.target for row in rows):
        of_target = [row for row in rows if row.target == target]
        last = max(of_target, key=_stage).stage
        final += [row for row in of_target if row.stage == last]
    return final


def change_from_baseline(rows: Sequence[Row], row: Row) -> Change:
    """FLOPs and accuracy against the torch baseline, latency against the baseline in the same runtime."""
    baseline = baseline_row(rows)
    if baseline is None or baseline is row or (row.stage == "load" and baseline.stage != "load"):
        return Change()
    timed = (r for r in rows if r.stage == baseline.stage and r is not row and _same_timing(r, row))
    return _change(baseline, next(timed, None), row)


def change_from_previous(rows: Sequence[Row], row: Row) -> Change:
    """Change from `previous_row`; latency from the closest earlier row that was timed in the same way."""
    timed = [r for r in rows if _precedes(r, row) and _same_timing(r, row)]
    return _change(previous_row(rows, row), _closest(timed, row), row)


def change_between(first: Row, second: Row) -> Change:
    """Change between rows of two runs."""
    return _change(first, first if _same_timing(first, second) else None, second)


def previous_row(rows: Sequence[Row], row: Row) -> Row | None:
    """The closest earlier row of the same target, preferably of the same precision (INT8 follows FP32). The first row
    of a target follows the torch row it was converted from."""
    earlier = [r for r in rows if r.target == row.target and _precedes(r, row)]
    if earlier or row.target is None:
        return _closest(earlier, row)
    return next((r for r in reversed(torch_rows(rows)) if _stage(r) <= _stage(row)), None)


def _precedes(first: Row, second: Row) -> bool:
    return _precision(first) <= _precision(second) and _position(first) < _position(second)


def _closest(earlier: list[Row], row: Row) -> Row | None:
    same = [r for r in earlier if r.precision == row.precision]
    return max(same or earlier, key=_position, default=None)


def _change(reference: Row | None, timed: Row | None, row: Row) -> Change:
    """FLOPs and accuracy from `reference`, latency from `timed`."""
    flops = accuracy = None
    agreement = row.accuracy is not None and row.accuracy.is_agreement
    if reference is not None:
        flops = row.flops / reference.flops if reference.flops else None
        old, new = reference.accuracy, row.accuracy
        if old and new and (old.metric, old.images) == (new.metric, new.images):
            accuracy = new.value - old.value
    if timed is None or timed.latency_ms is None or row.latency_ms is None:
        return Change(flops, accuracy, agreement)
    before, now = timed.latency_ms, row.latency_ms
    computed = before.inference_precision or "?", now.inference_precision or "?"
    precisions = computed if computed[0] != computed[1] else None
    return Change(flops, accuracy, agreement, speed(before, now), precisions, differ(before, now))


def _same_timing(first: Row, second: Row) -> bool:
    """True if both latencies were measured, and under the same conditions."""
    measured = all(row.latency_ms and row.latency_ms.obtained is Provenance.measured for row in (first, second))
    return measured and CONDITIONS(first) == CONDITIONS(second)


def _position(row: Row) -> tuple[int, int]:
    return _stage(row), _precision(row)


def _stage(row: Row) -> int:
    return STAGES.index(row.stage) if row.stage in STAGES else len(STAGES)


def _precision(row: Row) -> int:
    return PRECISIONS.index(row.precision) if row.precision in PRECISIONS else len(PRECISIONS)
