"""The verdict: the limits of a budget applied to the rows of a finished run's ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from compress.budget import remarks, selection
from compress.budget.limits import Check
from compress.budget.remarks import NO_DETECTION, Remark
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
    max_quantize_drop: float,
    rows: Sequence[Row],
    failures: Mapping[str, str],
    device: DeviceConfig,
    controls: Sequence[Row] = (),
    acceptance_checks: Sequence[Check] = (),
) -> Verdict:
    """Compares a budget with the ledger of a finished run. The baseline is the model as loaded, or as trained by the
    recipe's `train` stage.

    FLOPs are judged on the largest of the last torch row and the artifacts, accuracy on every artifact (on the last
    torch row if there is none), that of INT8 also against the FP32 graph in the same runtime. Latency and size are
    judged on the artifact recommended for each target, according to times from the device if there are any.

    Args:
        max_quantize_drop: largest absolute drop of accuracy from FP32 to INT8 in the same runtime.
        controls: rows of networks that were brought to the same FLOPs in a simpler way and fine-tuned equally. They
            lead to remarks only.
        acceptance_checks: those of the artifacts; added to the checks.
    """
    first, last = selection.baseline(rows), [row for row in rows if row.target is None][-1]
    all_finals = selection.final_rows(rows)
    finals = [row for row in all_finals if not selection.from_another_device(row)]
    on_device = [row for row in all_finals if device.name != HOST and selection.timed_on(row, device.name)]
    checks: list[Check] = []
    if (flops := budget.flops_limit) is not None:
        worst = max([last, *finals], key=lambda row: row.flops)
        checks.append(Check("budget.flops", None, None, flops.of(first.flops), worst.flops, "FLOPs"))
    untrained, weak = remarks.guessing_remark(first), None
    if (limit := budget.max_accuracy_drop) is not None:
        if not untrained and first.accuracy is not None and first.accuracy.value <= limit:
            weak = remarks.baseline_too_weak(first, limit)
        for row in finals or [last]:
            drop = None if untrained or weak else selection.accuracy_drop(first, row)
            checks.append(Check("budget.max_accuracy_drop", row.target, row.precision, limit, drop, "absolute"))
    for row in finals:
        if row.precision == "int8":
            drop = selection.accuracy_drop(selection.same_runtime_fp32(rows, row), row)
            checks.append(Check("quantize.max_accuracy_drop", row.target, "int8", max_quantize_drop, drop, "absolute"))
    names = dict.fromkeys(row.target for row in finals)
    recommended_here = {target: selection.recommend(finals, target, device.precisions) for target in names}
    recommended = {
        target: _recommended_on_device(on_device, best, budget.latency_ms) for target, best in recommended_here.items()
    }
    # Without any artifact the limits on costs are undetermined.
    for best in recommended.values() or [None]:
        target, precision = (best.target, best.precision) if best else (None, None)
        for name, cost_limit, value, unit in _costs(budget, best, device):
            if cost_limit is not None:
                checks.append(Check(f"budget.{name}", target, precision, cost_limit, value, unit))
    # fps is not judged by itself: before the run it became flops and latency_ms.
    if budget.energy_mj is not None:  # nothing measures it yet: undetermined, never passed
        checks.append(Check("budget.energy_mj", None, None, budget.energy_mj, None, "mJ"))
    notes = [remark for remark in (untrained, weak) if remark]
    notes += remarks.runtime_remarks(rows, finals, recommended_here) + remarks.control_remarks(last, controls)
    notes += remarks.contended_timings(rows)
    if budget.sram_kb is not None:
        notes.append(remarks.SRAM_IS_OF_TENSORS)
    if device.name != HOST and recommended_here:
        notes.append(remarks.for_the_device(device.name, recommended, on_device))
    return Verdict((*checks, *acceptance_checks), tuple(notes), failures)


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

    def in_units(count: int | None, unit: int) -> float | None:
        return None if count is None else count / unit

    size, arena = (row.size_bytes, row.arena_bytes) if row else (None, None)
    return [
        ("latency_ms", budget.latency_ms, selection.latency_on(row, device.name) if row else None, "ms"),
        ("size_mb", budget.size_mb, in_units(size, 10**6), "MB"),
        ("sram_kb", budget.sram_kb, in_units(arena, 1024), "KB of 1,024 bytes"),
        ("flash_kb", budget.flash_kb, in_units(size, 1024), "KB of 1,024 bytes"),
    ]


def _recommended_on_device(rows: Sequence[Row], guess: Row, limit_ms: float | None) -> Row:
    """The fastest of the rows timed on the device. If `guess` was not timed, only if the fastest meets the limit."""
    timed = [row for row in rows if row.target == guess.target]
    if not timed:
        return guess
    fastest = selection.recommend(timed, guess.target)
    known = guess.precision in {row.precision for row in timed}
    meets = limit_ms is not None and (selection.median(fastest) or math.inf) <= limit_ms
    return fastest if known or meets else guess
