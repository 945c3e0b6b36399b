"""The budget: its units, and the verdict that holds it against the ledger. No torch in here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from compress.config import HOST, BudgetConfig, DeviceConfig
from compress.errors import UserError
from compress.ledger import Row
from compress.timing_noise import TIMING_NOISE, contended, differ, in_turns, speed

MET, NOT_MET = 0, 3  # exit status
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
NO_DETECTION = 0.01  # mAP50-95 of a detector that knows nothing: random weights reach 0.0001
_FLOPS = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*([KMGT]?)(?:FLOPs?)?|([0-9.]+)\s*%", re.IGNORECASE)


def parse_flops(text: str | float, full: int) -> int:
    """FLOPs (1 MAC = 2 FLOPs) that a budget means: "50%" of `full`, "1.2G", "800M" or a plain number.

    Raises UserError for anything else, and for a budget that is not positive.
    """
    match = _FLOPS.fullmatch(str(text).strip())
    try:
        if match is None:
            raise ValueError
        share = match.group(3)
        value = full * float(share) / 100 if share else float(match.group(1)) * _UNITS[match.group(2).upper()]
    except ValueError:
        raise UserError("budget.flops", text, "give a share such as 50% or a number of FLOPs such as 1.2G") from None
    if not 1 <= value < math.inf:
        raise UserError("budget.flops", text, "give at least 1 FLOP, or a share with its sign, e.g. 50%")
    return int(value)


def format_flops(flops: float) -> str:
    """5.48e9 -> "5.48G"."""
    for unit in ("T", "G", "M", "K"):
        if flops >= _UNITS[unit]:
            return f"{flops / _UNITS[unit]:.4g}{unit}"
    return f"{flops:.0f}"


@dataclass(frozen=True)
class Check:
    """One limit held against one number. `met` is None where the number could not be had."""

    name: str
    target: str | None
    precision: str | None
    limit: float
    value: float | None
    unit: str

    @property
    def met(self) -> bool | None:
        # A drop from 0.99 to 0.98 is 0.01 on paper and a hair more in binary.
        return None if self.value is None else self.value <= self.limit + 1e-9 * abs(self.limit)


@dataclass(frozen=True)
class Remark:
    """Something the user should know, with its numbers, e.g. that INT8 did not pay off on a runtime."""

    kind: str
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    lasting: bool = False  # no row of the ledger leads to it: stays when a run is judged again by more rows


@dataclass(frozen=True)
class Verdict:
    """`met` is True, False, or None where it is undetermined (something needed could not be measured)."""

    checks: tuple[Check, ...]
    remarks: tuple[Remark, ...]
    failures: Mapping[str, str]  # {target: why it failed}

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
    contracts: Sequence[Check] = (),
) -> Verdict:
    """Holds the budget against the ledger of a finished run. The baseline is the model as loaded, or as trained by
    the recipe's own `train` stage.

    FLOPs and accuracy are judged on the last torch row and on every exported artifact, INT8 also against the FP32
    graph in the same runtime; latency and size on the artifact recommended for each target. `controls` are rows of
    other ways to the same FLOPs, tuned alike: they are remarked on, never judged. `contracts` are what was found of the
    artifacts' promises, and join the checks.
    """
    first = baseline(rows)
    last = [row for row in rows if row.target is None][-1]
    finals = [row for row in _finals(rows) if not _is_from_elsewhere(row)]
    there = [row for row in _finals(rows) if device.name != HOST and _was_timed_on(row, device.name)]
    checks: list[Check] = []
    if budget.flops is not None:
        worst = max([last, *finals], key=lambda row: row.flops)
        checks.append(Check("budget.flops", None, None, parse_flops(budget.flops, first.flops), worst.flops, "FLOPs"))
    ignorant = knows_nothing(first)
    weak = budget.max_accuracy_drop is not None and (ignorant or _proves_nothing(first, budget.max_accuracy_drop))
    if budget.max_accuracy_drop is not None:
        for row in finals or [last]:
            drop = None if weak else _difference(first, row)
            checks.append(
                Check("budget.max_accuracy_drop", row.target, row.precision, budget.max_accuracy_drop, drop, "points")
            )
    for row in finals:
        if row.precision == "int8":
            drop = _difference(_same_runtime_fp32(rows, row), row)
            checks.append(Check("quantize.max_accuracy_drop", row.target, "int8", quantize_drop, drop, "points"))
    names = dict.fromkeys(row.target for row in finals)
    recommended = {target: recommend(finals, target, device.precisions) for target in names}
    deployed = {target: _there(there, best, budget.latency_ms) for target, best in recommended.items()}
    # Without an artifact nothing is known of its costs.
    for best in deployed.values() or [None]:
        for name, limit, found, unit in _costs(budget, best, device):
            if limit is not None:
                target, precision = (best.target, best.precision) if best else (None, None)
                checks.append(Check(f"budget.{name}", target, precision, limit, found, unit))
    # fps is not judged by itself: before the run it became flops and latency_ms.
    if budget.energy_mj is not None:  # nothing measures it yet: undetermined, never passed
        checks.append(Check("budget.energy_mj", None, None, budget.energy_mj, None, "mJ"))
    checks += contracts
    remarks = _remarks(rows, finals, recommended) + _controls(last, controls) + _contended(rows)
    if budget.sram_kb is not None:
        remarks.append(_sram_is_of_tensors())
    if device.name != HOST and recommended:
        remarks.append(_for_the_device(device.name, deployed, there))
    if ignorant:
        remarks.insert(0, ignorant)
    elif budget.max_accuracy_drop is not None and weak:
        remarks.insert(0, _baseline_is_too_weak(first, budget.max_accuracy_drop))
    return Verdict(tuple(checks), tuple(remarks), failures)


def stopped(remark: Remark, row: Row, failures: Mapping[str, str]) -> Verdict:
    """The verdict on a run that ended at its baseline, which `knows_nothing`: undetermined."""
    accuracy = row.accuracy or {}
    limit = accuracy.get("chance", NO_DETECTION)
    check = Check("baseline.knows_something", None, None, float(limit), None, str(accuracy.get("metric")))
    return Verdict((check,), (remark,), failures)


def knows_nothing(row: Row) -> Remark | None:
    """Whether a baseline answers no better than without looking: a top-1 whose 95 % interval reaches down to that of
    always naming the most frequent class, or an mAP50-95 below `NO_DETECTION`."""
    accuracy = row.accuracy or {}
    metric, value, chance = accuracy.get("metric"), accuracy.get("value"), accuracy.get("chance")
    if value is None:
        return None
    if chance is not None and 0 < chance < 1 and accuracy["ci95"][0] <= chance:
        low, high = accuracy["ci95"]
        held = (
            f"no better than always naming the most frequent class, {chance:.4f} [95 % interval {low:.4f}, {high:.4f}]"
        )
    elif metric == "mAP50-95" and value < NO_DETECTION:
        chance, held = NO_DETECTION, f"below {NO_DETECTION:g}"
    else:
        return None
    text = (
        f"The baseline knows nothing of this data: {metric} is {value:.4f} on {accuracy['images']} images, {held}. "
        "Are these the right weights, and the classes in the model's order?"
    )
    return Remark("baseline_knows_nothing", text, {"baseline": value, "chance": chance})


def _costs(
    budget: BudgetConfig, row: Row | None, device: DeviceConfig
) -> list[tuple[str, float | None, float | None, str]]:
    """(name, limit, what the artifact takes, unit)."""

    def taken(count: int | None, unit: int) -> float | None:
        return None if count is None else count / unit

    size, arena = (row.size_bytes, row.arena_bytes) if row else (None, None)
    return [
        ("latency_ms", budget.latency_ms, _latency(row, device.name) if row else None, "ms"),
        ("size_mb", budget.size_mb, taken(size, 10**6), "MB"),
        ("sram_kb", budget.sram_kb, taken(arena, 1024), "KB of 1,024 bytes"),
        ("flash_kb", budget.flash_kb, taken(size, 1024), "KB of 1,024 bytes"),
    ]


def baseline(rows: Sequence[Row], target: str | None = None) -> Row:
    """The row that everything is compared with, for torch or for a target's FP32 graph. Raises IndexError if none."""
    return [row for row in rows if row.target == target and row.stage in ("load", "train")][-1]


def recommend(rows: Sequence[Row], target: str | None, precisions: Sequence[str] = ()) -> Row:
    """The artifact to deploy on a target: the first of a device's `precisions`, where it declares an order. Else, of
    those timed, the fastest, a tie within noise going to the one of fewest bit operations, which is also the smallest
    file; that one too where nothing could be timed."""
    own = [row for row in rows if row.target == target]
    declared = [row for precision in precisions for row in own if row.precision == precision]
    if declared:
        return declared[0]
    timed = [row for row in own if _median(row) is not None]
    if not timed:
        return min(own, key=lambda row: row.bit_operations)
    fastest = _fastest(timed)
    ties = [row for row in timed if not differ(fastest.latency_ms, row.latency_ms)]
    return min(ties, key=lambda row: row.bit_operations)


def _fastest(timed: Sequence[Row]) -> Row:
    """Of rows with a latency."""
    return min(timed, key=lambda row: speed(timed[0].latency_ms, row.latency_ms) or 0.0)


def _median(row: Row) -> float | None:
    return row.latency_ms.get("median") if row.latency_ms else None


def _finals(rows: Sequence[Row]) -> list[Row]:
    """Rows of what the run hands out: the exported artifacts, else the quantized graphs."""
    for stage in ("export", "quantize"):
        found = [row for row in rows if row.stage == stage and row.target is not None]
        if found:
            return found
    return []


def _same_runtime_fp32(rows: Sequence[Row], int8: Row) -> Row | None:
    """The FP32 row of the same (tuned) network in the same runtime."""
    same = (int8.target, "fp32", int8.flops)
    found = [row for row in rows if (row.target, row.precision, row.flops) == same and not _is_from_elsewhere(row)]
    return found[-1] if found else None


def _difference(reference: Row | None, row: Row) -> float | None:
    """How many points of the metric `row` lies below `reference`; None where either was not measured."""
    if reference is None or reference.accuracy is None or row.accuracy is None:
        return None
    return float(reference.accuracy["value"]) - float(row.accuracy["value"])


def _latency(row: Row, device: str) -> float | None:
    """Median milliseconds, if they were measured on the device that the budget is for."""
    latency = row.latency_ms
    return float(latency["median"]) if latency and _was_timed_on(row, device) else None


def _was_timed_on(row: Row, device: str) -> bool:
    """Whether its latency was measured on a device; `Raspberry Pi 5` is the profile `raspberry_pi_5`."""
    latency = row.latency_ms or {}
    return latency.get("obtained") == "measured" and _plain(str(latency.get("device"))) == _plain(device)


def _there(rows: Sequence[Row], guess: Row, limit_ms: float | None) -> Row:
    """The artifact to use by what was timed on the device: the fastest. But as long as the one that was guessed has not
    been timed there, only one that keeps the limit."""
    timed = [row for row in rows if row.target == guess.target]
    if not timed:
        return guess
    fastest = recommend(timed, guess.target)
    known = guess.precision in {row.precision for row in timed}
    return fastest if known or (limit_ms is not None and (_median(fastest) or 0.0) <= limit_ms) else guess


def _is_from_elsewhere(row: Row) -> bool:
    """Whether a bench kit brought it: the file is one of this run's, its accuracy is not measured again."""
    return (row.latency_ms or {}).get("device") not in (None, HOST)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _remarks(rows: Sequence[Row], finals: Sequence[Row], recommended: Mapping[str | None, Row]) -> list[Remark]:
    remarks: list[Remark] = _other_splits(baseline(rows), finals)
    for target, best in recommended.items():
        int8 = next((row for row in finals if row.target == target and row.precision == "int8"), None)
        if int8 is not None:
            others = [row for row in finals if row.target == target and row is not int8]
            remarks += _int8_does_not_pay(int8, best) + _int8_saves_no_time(int8, best, others)
        if any(row.target == target and row.stage in ("load", "train") for row in rows):
            remarks += _flops_are_not_time(baseline(rows, target), best)
    return remarks


def _sram_is_of_tensors() -> Remark:
    text = (
        "budget.sram_kb is held against the tensors as LiteRT for Microcontrollers lays them out; its own structures "
        "and its kernels' scratch buffers come on top, from a few kilobytes to tens: leave room for them."
    )
    return Remark("sram_is_of_tensors", text)


def _for_the_device(device: str, recommended: Mapping[str | None, Row], there: Sequence[Row]) -> Remark:
    timed = {f"{row.target}/{row.precision}": _median(row) or 0.0 for row in recommended.values() if row in there}
    guessed = [f"{row.target}/{row.precision}" for row in recommended.values() if row not in there]
    parts = [f"{name} is the fastest that was measured there, {ms:.2f} ms" for name, ms in timed.items()]
    if guessed:
        parts.append(
            f"{', '.join(guessed)} by what its chip is known to compute best. Times measured on this machine say "
            "nothing about it; the README in each artifact says how to time the files there"
        )
    return Remark("recommended_for_device", f"For {device}: {'; '.join(parts)}.", timed)


def _proves_nothing(first: Row, drop: float) -> bool:
    """Whether the baseline could not even lose what it is allowed to: then keeping within the limit says nothing."""
    return first.accuracy is not None and float(first.accuracy["value"]) <= drop


def _baseline_is_too_weak(first: Row, drop: float) -> Remark:
    value = float(first.accuracy["value"]) if first.accuracy else 0.0
    text = (
        f"The baseline's own accuracy is {value:.4f}, no more than the allowed drop of {drop:g}: keeping within "
        "that proves nothing and is not judged. Are these the right weights, and the classes in the model's order?"
    )
    return Remark("baseline_is_too_weak", text, {"baseline": value, "limit": drop})


def _other_splits(first: Row, finals: Sequence[Row]) -> list[Remark]:
    """What became of the accuracy on splits that are not judged, such as images of other places."""
    remarks = []
    for split, before in (first.accuracy or {}).get("others", {}).items():
        numbers = {"baseline": before["value"]}
        for row in finals:
            after = (row.accuracy or {}).get("others", {}).get(split)
            if after is not None:
                numbers[f"{row.target}/{row.precision}"] = after["value"]
        low, high = before["ci95"]
        text = (
            f"On the split {split} ({before['images']} images, not judged) {before['metric']} was "
            f"{before['value']:.3f} [{low:.3f}, {high:.3f}] in the baseline and is now "
            + ", ".join(f"{value:.3f} ({name})" for name, value in numbers.items() if name != "baseline")
            + "."
        )
        remarks.append(Remark("other_split", text, numbers))
    return remarks


def _controls(tuned: Row, controls: Sequence[Row]) -> list[Remark]:
    """Whether the pruned and tuned model beats what the same FLOPs give by plainer means."""
    ours, remarks = (tuned.accuracy or {}).get("value"), []
    for row in controls:
        theirs, name = (row.accuracy or {}).get("value"), row.stage.replace("_", " ")
        if ours is None or theirs is None:
            continue
        won = ours > theirs
        text = (
            f"{'Pruning wins' if won else 'Pruning does NOT win'} against the control `{name}`: {ours:.4f} at "
            f"{tuned.flops / 1e9:.3f} G FLOPs against {theirs:.4f} at {row.flops / 1e9:.3f} G ({row.imgsz} px), tuned "
            "with as many images."
        )
        remarks.append(
            Remark(
                "control" if won else "pruning_does_not_win",
                text,
                {"pruned": ours, row.stage: theirs, "flops": row.flops, "imgsz": row.imgsz},
            )
        )
    return remarks


def _int8_does_not_pay(int8: Row, best: Row) -> list[Remark]:
    ours, theirs, ratio = _median(int8), _median(best), speed(best.latency_ms, int8.latency_ms)
    if best is int8 or ours is None or theirs is None or best.latency_ms is None or ratio is None:
        return []
    precision = best.latency_ms.get("inference_precision", best.precision)
    text = (
        f"INT8 is not the fastest on {best.target} here: {ours:.2f} ms against {theirs:.2f} ms for the "
        f"{best.precision} file{_said_in_turns(best, int8)}, which this runtime computes in {precision} on this "
        f"machine. Recommended here: {best.target}/{best.precision}. Elsewhere INT8 may pay: time both with the bench "
        "kit."
    )
    return [Remark("int8_does_not_pay", text, {"int8_ms": ours, "recommended_ms": theirs, "ratio": ratio})]


def _said_in_turns(first: Row, second: Row) -> str:
    """The ratio of two times where it was not measured at different times, as part of a sentence."""
    ratio = speed(first.latency_ms, second.latency_ms)
    return f" (in turns ×{ratio:.2f})" if ratio and in_turns(first.latency_ms, second.latency_ms) else ""


def _int8_saves_no_time(int8: Row, best: Row, others: Sequence[Row]) -> list[Remark]:
    """INT8 is recommended, and yet another file is as fast within noise."""
    ours = _median(int8)
    timed = [row for row in others if _median(row) is not None]
    if best is not int8 or ours is None or not timed:
        return []
    other = _fastest(timed)
    theirs, latency = _median(other) or 0.0, other.latency_ms or {}
    ratio = speed(int8.latency_ms, other.latency_ms)
    if ratio is None or ratio > 1 + TIMING_NOISE or differ(int8.latency_ms, other.latency_ms) is None:
        return []
    small, large = ((row.size_bytes or 0) / 1e6 for row in (int8, other))
    text = (
        f"{latency.get('inference_precision', other.precision).upper()} is already as fast as INT8 on {best.target} "
        f"here: {theirs:.2f} ms for the {other.precision} file, {ours:.2f} ms for INT8{_said_in_turns(other, int8)}, "
        f"which saves space rather than time: {small:.2f} MB instead of {large:.2f} MB."
    )
    numbers = {"int8_ms": ours, "other_ms": theirs, "int8_mb": small, "other_mb": large}
    return [Remark("int8_saves_no_time", text, numbers)]


def _contended(rows: Sequence[Row]) -> list[Remark]:
    """Which times say little, since other programs took the CPU while they were measured."""
    waited = {
        f"{row.stage} {row.target or 'torch'} {row.precision}": float((row.latency_ms or {}).get("cpu_wait") or 0.0)
        for row in rows
        if contended(row.latency_ms)
    }
    if not waited:
        return []
    text = (
        f"Other programs took the CPU while {len(waited)} of {len(rows)} rows were timed, marked (contended): threads "
        f"waited up to {max(waited.values()):.0%} of their time. Those times may be too long and are compared with "
        "nothing; the same command on a quiet machine measures again and takes the rest from the cache."
    )
    return [Remark("timing_contended", text, waited)]


def _flops_are_not_time(before: Row, best: Row) -> list[Remark]:
    old, new = _median(before), _median(best)
    ratio, differs = speed(before.latency_ms, best.latency_ms), differ(before.latency_ms, best.latency_ms)
    if old is None or new is None or ratio is None or differs is None:
        return []
    if ratio < 1 - TIMING_NOISE or best.flops >= 0.95 * before.flops:
        return []
    text = (
        f"{1 - best.flops / before.flops:.0%} fewer FLOPs did not make {best.target} faster here: "
        f"{old:.2f} ms before, {new:.2f} ms after{_said_in_turns(before, best)}."
    )
    return [Remark("flops_are_not_time", text, {"before_ms": old, "after_ms": new})]
