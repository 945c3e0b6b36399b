"""The verdict: the limits of a budget applied to the rows of a finished run's ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from compress.budget import remarks, selection
from compress.budget.limits import Check
from compress.budget.remarks import NO_DETECTION, Remark
from compress.config import HOST, BudgetConfig, DeviceConfig
from compress.ledger import Row

MET, NOT_MET = 0, 3  # exit statuses; an undetermined verdict has that of NOT_MET


@dataclass(frozen=True)
class Verdict:
    """`met` is False if a check or a target failed, else None (undetermined) if a number that a check needs was not
    measured, else True."""

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
    """Compares a budget with the ledger of a finished run. What is judged:
    - FLOPs: the largest of the last torch row and the artifacts.
    - Accuracy: each artifact (the last torch row if there is none) against the baseline, the model as loaded or as
      trained by the run, and INT8 also against FP32 in the same runtime. The drop from a baseline that is at chance
      level, or not above the allowed drop, is undetermined.
    - Energy, latency, size, SRAM, flash: the artifact recommended for each target, by latencies from the device if it
      has any.

    Args:
        max_quantize_drop: largest drop of accuracy from FP32 to INT8 in the same runtime, as a fraction in [0, 1].
        rows: in order of measurement, at least one of them of torch. failures: {target: reason}.
        device: rows that were timed on it decide the recommendation.
        controls: rows of networks that other methods brought to about the same FLOPs; for remarks only.
        acceptance_checks: those of the artifacts; added to the checks.
    """
    first, last = selection.baseline(rows), [row for row in rows if row.target is None][-1]
    artifact_rows = selection.final_rows(rows)
    finals = [row for row in artifact_rows if not selection.from_another_device(row)]  # measured on this machine
    on_device = [row for row in artifact_rows if device.name != HOST and selection.timed_on(row, device.name)]
    checks: list[Check] = []
    if (flops := budget.flops_limit) is not None:
        worst = max([last, *finals], key=lambda row: row.flops)
        checks.append(Check("budget.flops", None, None, flops.of(first.flops), worst.flops, "FLOPs"))
    unit = "absolute, agreement" if first.accuracy and first.accuracy.is_agreement else "absolute"
    at_chance, too_weak = remarks.chance_level_remark(first), None
    if (limit := budget.max_accuracy_drop) is not None:
        if not at_chance and first.accuracy is not None and first.accuracy.value <= limit:
            too_weak = remarks.baseline_too_weak(first, limit)
        for row in finals or [last]:
            drop = None if at_chance or too_weak else selection.accuracy_drop(first, row)
            checks.append(Check("budget.max_accuracy_drop", row.target, row.precision, limit, drop, unit))
    for row in finals:
        if row.precision == "int8":
            drop = selection.accuracy_drop(selection.same_runtime_fp32(rows, row), row)
            checks.append(Check("quantize.max_accuracy_drop", row.target, "int8", max_quantize_drop, drop, unit))
    names = dict.fromkeys(row.target for row in finals)
    by_host = {target: selection.recommend(finals, target, device.precisions) for target in names}
    recommended = selection.to_deploy(rows, device.name, device.precisions, budget.latency_ms)
    for best in recommended.values() or [None]:  # without any artifact, these limits are undetermined
        target, precision = (best.target, best.precision) if best else (None, None)
        for name, cost_limit, value, unit in _costs(budget, best, device):
            if cost_limit is not None:
                checks.append(Check(f"budget.{name}", target, precision, cost_limit, value, unit))
    # budget.fps needs no check: `devices.resolve` has converted it to limits on FLOPs and latency.
    notes = [remark for remark in (at_chance, too_weak, remarks.agreement(first)) if remark]
    notes += remarks.runtime_remarks(rows, finals, by_host) + remarks.control_remarks(last, controls)
    notes += remarks.contended_timings(rows) + remarks.hot_timings(rows) + remarks.measured_before(rows)
    if budget.sram_kb is not None:
        notes.append(remarks.SRAM_IS_OF_TENSORS)
    if device.name != HOST and by_host:
        notes.append(remarks.for_the_device(device.name, recommended, on_device))
    return Verdict((*checks, *acceptance_checks), tuple(notes), failures)


def undetermined_verdict(remark: Remark, row: Row, failures: Mapping[str, str]) -> Verdict:
    """The verdict on a run that ended at its baseline, whose `row` led to `remark` (see `chance_level_remark`)."""
    assert row.accuracy is not None  # the remark is about it
    limit = NO_DETECTION if row.accuracy.chance is None else row.accuracy.chance
    check = Check("baseline.knows_something", None, None, limit, None, row.accuracy.metric)
    return Verdict((check,), (remark,), failures)


def _costs(
    budget: BudgetConfig, row: Row | None, device: DeviceConfig
) -> list[tuple[str, float | None, float | None, str]]:
    """(name, limit, value of the artifact, unit) of limits on energy, latency and memory; None for what is unknown."""

    def in_units(count: int | None, unit: int) -> float | None:
        return None if count is None else count / unit

    size, arena = (row.size_bytes, row.arena_bytes) if row else (None, None)
    return [
        ("energy_mj", budget.energy_mj, selection.energy_on(row, device) if row else None, "mJ"),
        ("latency_ms", budget.latency_ms, selection.latency_on(row, device.name) if row else None, "ms"),
        ("size_mb", budget.size_mb, in_units(size, 10**6), "MB"),
        ("sram_kb", budget.sram_kb, in_units(arena, 1024), "KB of 1,024 bytes"),
        ("flash_kb", budget.flash_kb, in_units(size, 1024), "KB of 1,024 bytes"),
    ]
