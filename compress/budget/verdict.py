"""The verdict: the limits of a budget applied to the rows of a finished run's ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from compress.budget.limits import Check
from compress.budget.remarks import (
    NO_DETECTION,
    Remark,
    baseline_too_weak,
    contended_timings,
    control_remarks,
    for_the_device,
    guessing_remark,
    runtime_remarks,
    sram_counts_tensors,
)
from compress.budget.selection import (
    accuracy_drop,
    baseline,
    final_rows,
    from_another_device,
    latency_on,
    median,
    recommend,
    same_runtime_fp32,
    timed_on,
)
from compress.config import HOST, BudgetConfig, DeviceConfig
from compress.ledger import Row

MET, NOT_MET = 0, 3  # exit status


@dataclass(frozen=True)
class Verdict:
    """`met` is True, False, or None if it is undetermined (a number that is needed could not be measured)."""

    checks: tuple[Check, ...]
    remarks: tuple[Remark, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)  # {target: why it failed}

    @property
    def met(self) -> bool | None:
        states = [check.met for check in self.checks]
        if False in states or self.failures:
            return False
        return None if None in states else True

    @property
    def exit_status(self) -> int:
        return MET if self.met else NOT_MET

    def as_dict(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "met": self.met,
            "checks": [{**asdict(check), "met": check.met} for check in self.checks],
            "remarks": [asdict(remark) for remark in self.remarks],
            "failures": dict(self.failures),
        }


def judge(
    budget: BudgetConfig,
    quantize_drop: float,
    rows: Sequence[Row],
    failures: Mapping[str, str],
    device: DeviceConfig,
    controls: Sequence[Row] = (),
    acceptance_checks: Sequence[Check] = (),
) -> Verdict:
    """Compares a budget with the ledger of a finished run. The baseline is the model as loaded, or as trained by the
    recipe's `train` stage.

    FLOPs and accuracy are judged on the last torch row and on every exported artifact, INT8 also against the FP32
    graph in the same runtime; latency and size on the artifact recommended for each target. `controls` are rows of
    other ways to the same FLOPs with the same fine-tuning: they are remarked on, never judged. `acceptance_checks`,
    those of the artifacts, are added to the checks.
    """
    first = baseline(rows)
    last = [row for row in rows if row.target is None][-1]
    finals = [row for row in final_rows(rows) if not from_another_device(row)]
    there = [row for row in final_rows(rows) if device.name != HOST and timed_on(row, device.name)]
    checks: list[Check] = []
    if (flops := budget.flops_limit) is not None:
        worst = max([last, *finals], key=lambda row: row.flops)
        checks.append(Check("budget.flops", None, None, flops.of(first.flops), worst.flops, "FLOPs"))
    ignorant = guessing_remark(first)
    weak = budget.max_accuracy_drop is not None and (ignorant or _proves_nothing(first, budget.max_accuracy_drop))
    if budget.max_accuracy_drop is not None:
        for row in finals or [last]:
            drop = None if weak else accuracy_drop(first, row)
            checks.append(
                Check("budget.max_accuracy_drop", row.target, row.precision, budget.max_accuracy_drop, drop, "points")
            )
    for row in finals:
        if row.precision == "int8":
            drop = accuracy_drop(same_runtime_fp32(rows, row), row)
            checks.append(Check("quantize.max_accuracy_drop", row.target, "int8", quantize_drop, drop, "points"))
    names = dict.fromkeys(row.target for row in finals)
    recommended = {target: recommend(finals, target, device.precisions) for target in names}
    deployed = {target: _there(there, best, budget.latency_ms) for target, best in recommended.items()}
    # Without an artifact nothing is known of its costs.
    for best in deployed.values() or [None]:
        for name, limit, value, unit in _costs(budget, best, device):
            if limit is not None:
                target, precision = (best.target, best.precision) if best else (None, None)
                checks.append(Check(f"budget.{name}", target, precision, limit, value, unit))
    # fps is not judged by itself: before the run it became flops and latency_ms.
    if budget.energy_mj is not None:  # nothing measures it yet: undetermined, never passed
        checks.append(Check("budget.energy_mj", None, None, budget.energy_mj, None, "mJ"))
    checks += acceptance_checks
    remarks = runtime_remarks(rows, finals, recommended) + control_remarks(last, controls) + contended_timings(rows)
    if budget.sram_kb is not None:
        remarks.append(sram_counts_tensors())
    if device.name != HOST and recommended:
        remarks.append(for_the_device(device.name, deployed, there))
    if ignorant:
        remarks.insert(0, ignorant)
    elif budget.max_accuracy_drop is not None and weak:
        remarks.insert(0, baseline_too_weak(first, budget.max_accuracy_drop))
    return Verdict(tuple(checks), tuple(remarks), failures)


def undetermined(remark: Remark, row: Row, failures: Mapping[str, str]) -> Verdict:
    """The verdict on a run that ended at its baseline (see `guessing_remark`): undetermined."""
    assert row.accuracy is not None  # the remark is about it
    limit = NO_DETECTION if row.accuracy.chance is None else row.accuracy.chance
    check = Check("baseline.knows_something", None, None, limit, None, row.accuracy.metric)
    return Verdict((check,), (remark,), failures)


def _costs(
    budget: BudgetConfig, row: Row | None, device: DeviceConfig
) -> list[tuple[str, float | None, float | None, str]]:
    """(name, limit, value of the artifact, unit)."""

    def taken(count: int | None, unit: int) -> float | None:
        return None if count is None else count / unit

    size, arena = (row.size_bytes, row.arena_bytes) if row else (None, None)
    return [
        ("latency_ms", budget.latency_ms, latency_on(row, device.name) if row else None, "ms"),
        ("size_mb", budget.size_mb, taken(size, 10**6), "MB"),
        ("sram_kb", budget.sram_kb, taken(arena, 1024), "KB of 1,024 bytes"),
        ("flash_kb", budget.flash_kb, taken(size, 1024), "KB of 1,024 bytes"),
    ]


def _there(rows: Sequence[Row], guess: Row, limit_ms: float | None) -> Row:
    """The artifact to use according to latencies from the device: the fastest. If `guess` was not timed there, only one
    that keeps the limit replaces it."""
    timed = [row for row in rows if row.target == guess.target]
    if not timed:
        return guess
    fastest = recommend(timed, guess.target)
    known = guess.precision in {row.precision for row in timed}
    return fastest if known or (limit_ms is not None and (median(fastest) or 0.0) <= limit_ms) else guess


def _proves_nothing(first: Row, drop: float) -> bool:
    """True if the baseline's accuracy does not exceed the allowed drop: keeping such a limit proves nothing."""
    return first.accuracy is not None and first.accuracy.value <= drop
