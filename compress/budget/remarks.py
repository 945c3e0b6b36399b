"""Remarks: what a user should know about a run beyond its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from compress.budget.selection import baseline, fastest_of, median
from compress.ledger import Row
from compress.timing_noise import TIMING_NOISE, differ, in_turns, speed

DRIFT = 0.1  # a measurement whose end is slower than its start by a larger fraction is worth a remark
NO_DETECTION = 0.01  # mAP below which a detector is considered untrained: random weights reach 0.0001


@dataclass(frozen=True)
class Remark:
    """One remark with its numbers, e.g. that INT8 saves no time on a runtime."""

    kind: str
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    lasting: bool = False  # not derived from ledger rows: kept when a run is judged again with more rows


SRAM_IS_OF_TENSORS = Remark(
    "sram_is_of_tensors",
    "budget.sram_kb limits the memory of the tensors as LiteRT for Microcontrollers places them; its own structures "
    "and the scratch buffers of its kernels need additional memory, from a few kilobytes to tens.",
)


def chance_level_remark(row: Row) -> Remark | None:
    """A remark if a baseline is no better than guessing: a classifier whose 95 % interval includes the value of always
    ranking the classes by their frequency, or a detector with an mAP below `NO_DETECTION`. None otherwise."""
    accuracy = row.accuracy
    if accuracy is None:
        return None
    value, chance = accuracy.value, accuracy.chance
    low, high = accuracy.ci95 or (value, value)
    if chance is not None and 0 < chance < 1 and low <= chance:
        top5 = accuracy.metric == "top5"
        guess = "naming the five most frequent classes" if top5 else "answering the most frequent class"
        held = f"and always {guess} gives {chance:.4f} [95 % interval {low:.4f}, {high:.4f}]"
    elif "mAP" in accuracy.metric and value < NO_DETECTION:
        chance, held = NO_DETECTION, f"below {NO_DETECTION:g}"
    else:
        return None
    text = (
        f"The baseline is no better than guessing on this data: {accuracy.metric} is {value:.4f} on "
        f"{accuracy.images} images, {held}. Check the weights and the order of the classes."
    )
    return Remark("baseline_knows_nothing", text, {"baseline": value, "chance": chance})


def agreement(first: Row) -> Remark | None:
    """A remark if there were no labels: what the numbers mean. `first`: the baseline."""
    if first.accuracy is None or not first.accuracy.is_agreement:
        return None
    text = (
        f"There were no labels: {first.accuracy.metric} compares with the unpruned model's own predictions. It does "
        "not tell whether these are correct. Budgets for accuracy limit the drop of this agreement."
    )
    return Remark("agreement_is_not_accuracy", text, {"baseline": first.accuracy.value})


def runtime_remarks(rows: Sequence[Row], finals: Sequence[Row], recommended: Mapping[str | None, Row]) -> list[Remark]:
    remarks = _other_splits(baseline(rows), finals)
    for target, best in recommended.items():
        int8 = next((row for row in finals if row.target == target and row.precision == "int8"), None)
        if int8 is not None:
            others = [row for row in finals if row.target == target and row is not int8]
            remarks += _int8_does_not_pay(int8, best) + _int8_saves_no_time(int8, best, others)
        if any(row.target == target and row.stage in ("load", "train") for row in rows):
            remarks += _flops_are_not_time(baseline(rows, target), best)
    return remarks


def for_the_device(device: str, recommended: Mapping[str | None, Row], on_device: Sequence[Row]) -> Remark:
    timed = {f"{row.target}/{row.precision}": median(row) or 0.0 for row in recommended.values() if row in on_device}
    guessed = [f"{row.target}/{row.precision}" for row in recommended.values() if row not in on_device]
    parts = [f"{name} is the fastest file measured on the device, {ms:.2f} ms" for name, ms in timed.items()]
    if guessed:
        parts.append(
            f"{', '.join(guessed)} is recommended by the precisions that its chip supports. Times measured on this "
            "machine do not apply to it; the README in each artifact describes how to time the files on the device"
        )
    return Remark("recommended_for_device", f"For {device}: {'; '.join(parts)}.", timed)


def baseline_too_weak(first: Row, drop: float) -> Remark:
    value = first.accuracy.value if first.accuracy else 0.0
    text = (
        f"The accuracy of the baseline is {value:.4f}, no more than the allowed drop of {drop:g}: meeting that limit "
        "proves nothing, so it is not judged. Check the weights and the order of the classes."
    )
    return Remark("baseline_is_too_weak", text, {"baseline": value, "limit": drop})


def _other_splits(first: Row, finals: Sequence[Row]) -> list[Remark]:
    remarks = []
    for split, before in (first.accuracy.others if first.accuracy else {}).items():
        after = {
            f"{row.target}/{row.precision}": row.accuracy.others[split].value
            for row in finals
            if row.accuracy and split in row.accuracy.others
        }
        low, high = before.ci95 or (before.value, before.value)
        text = (
            f"On the split {split} ({before.images} images, not judged) {before.metric} was "
            f"{before.value:.3f} [{low:.3f}, {high:.3f}] in the baseline and is now "
            f"{', '.join(f'{value:.3f} ({name})' for name, value in after.items())}."
        )
        remarks.append(Remark("other_split", text, {"baseline": before.value, **after}))
    return remarks


def control_remarks(tuned: Row, controls: Sequence[Row]) -> list[Remark]:
    """Compares the fine-tuned model with the controls, simpler ways to the same FLOPs."""
    remarks = []
    for row in controls:
        if tuned.accuracy is None or row.accuracy is None:
            continue
        pruned, control, name = tuned.accuracy.value, row.accuracy.value, row.stage.replace("_", " ")
        won = pruned > control
        numbers = {"pruned": pruned, row.stage: control, "flops": row.flops, "imgsz": row.imgsz}
        text = (
            f"{'Pruning wins' if won else 'Pruning does NOT win'} against the control `{name}`: {pruned:.4f} at "
            f"{tuned.flops / 1e9:.3f} G FLOPs and {control:.4f} at {row.flops / 1e9:.3f} G ({row.imgsz} px), tuned "
            "with as many images."
        )
        remarks.append(Remark("control" if won else "pruning_does_not_win", text, numbers))
    return remarks


def _int8_does_not_pay(int8: Row, best: Row) -> list[Remark]:
    int8_ms, best_ms, ratio = median(int8), median(best), speed(best.latency_ms, int8.latency_ms)
    if best is int8 or int8_ms is None or best_ms is None or best.latency_ms is None or ratio is None:
        return []
    precision = best.latency_ms.inference_precision or best.precision
    text = (
        f"INT8 is not the fastest on {best.target} here: {int8_ms:.2f} ms compared with {best_ms:.2f} ms for the "
        f"{best.precision} file{_in_turns_clause(best, int8)}, which this runtime computes in {precision} on this "
        f"machine. Recommended here: {best.target}/{best.precision}. On other devices INT8 may be faster: time both "
        "with the bench kit."
    )
    return [Remark("int8_does_not_pay", text, {"int8_ms": int8_ms, "recommended_ms": best_ms, "ratio": ratio})]


def _in_turns_clause(first: Row, second: Row) -> str:
    ratio = speed(first.latency_ms, second.latency_ms)
    return f" (in turns ×{ratio:.2f})" if ratio and in_turns(first.latency_ms, second.latency_ms) else ""


def _int8_saves_no_time(int8: Row, best: Row, others: Sequence[Row]) -> list[Remark]:
    int8_ms, timed = median(int8), [row for row in others if median(row) is not None]
    if best is not int8 or int8_ms is None or not timed:
        return []
    other = fastest_of(timed)
    other_ms, ratio = median(other) or 0.0, speed(int8.latency_ms, other.latency_ms)
    computed = (other.latency_ms and other.latency_ms.inference_precision) or other.precision
    if ratio is None or ratio > 1 + TIMING_NOISE or differ(int8.latency_ms, other.latency_ms) is None:
        return []
    small, large = ((row.size_bytes or 0) / 1e6 for row in (int8, other))
    text = (
        f"{computed.upper()} is already as fast as INT8 on {best.target} here: "
        f"{other_ms:.2f} ms for the {other.precision} file, {int8_ms:.2f} ms for INT8{_in_turns_clause(other, int8)}, "
        f"which saves space rather than time: {small:.2f} MB instead of {large:.2f} MB."
    )
    numbers = {"int8_ms": int8_ms, "other_ms": other_ms, "int8_mb": small, "other_mb": large}
    return [Remark("int8_saves_no_time", text, numbers)]


def contended_timings(rows: Sequence[Row]) -> list[Remark]:
    """Lists the rows that were timed while other programs used the CPU."""
    waited = {
        f"{row.stage} {row.target or 'torch'} {row.precision}": row.latency_ms.cpu_wait or 0.0
        for row in rows
        if row.latency_ms is not None and row.latency_ms.contended
    }
    if not waited:
        return []
    text = (
        f"Other programs used the CPU while {len(waited)} of {len(rows)} rows were timed, marked (contended): threads "
        f"waited up to {max(waited.values()):.0%} of their time. These times may be too long and are not compared. The "
        "same command on an idle machine measures again and reads finished stages from the cache."
    )
    return [Remark("timing_contended", text, waited)]


def measured_before(rows: Sequence[Row]) -> list[Remark]:
    """States how many rows are measurements of earlier runs, and when these were made."""
    times = sorted(
        row.latency_ms.measured_at
        for row in rows
        if row.latency_ms and row.latency_ms.reused and row.latency_ms.measured_at
    )
    if not times:
        return []
    first, last = (datetime.fromisoformat(each).strftime("%Y-%m-%d %H:%M") for each in (times[0], times[-1]))
    when = first if first == last else f"between {first} and {last}"
    text = (
        f"{len(times)} of {len(rows)} rows were timed on this machine {when}: their products are unchanged. "
        "measure=again measures them again."
    )
    return [Remark("measured_before", text, {"rows": len(times)})]


def hot_timings(rows: Sequence[Row]) -> list[Remark]:
    """Lists the rows that were timed while their device became slower: by its own report, or by the latencies."""
    slower, sensors = {}, []
    for row in rows:
        timing = row.latency_ms
        if timing is None or timing.contended or not (timing.throttled or (timing.drift or 0.0) > DRIFT):
            continue
        slower[f"{row.stage} {row.target or 'torch'} {row.precision}"] = timing.drift or 0.0
        sensors += [timing.celsius] if timing.celsius is not None else []
    if not slower:
        return []
    heat = f" The hottest sensor reached {max(sensors):.0f} °C." if sensors else ""
    reported = any(row.latency_ms.throttled for row in rows if row.latency_ms is not None)
    cause = "as the system reports" if reported else "as when it is hot"
    text = (
        f"The device slowed down, {cause}, while {len(slower)} of {len(rows)} rows were timed: the last quarter of the "
        f"runs took up to {max(slower.values()):.0%} longer than the first.{heat} Cool it, or time for longer: a model "
        "that runs all the time will be as slow as at the end."
    )
    return [Remark("timing_throttled", text, slower)]


def _flops_are_not_time(before: Row, best: Row) -> list[Remark]:
    old, new = median(before), median(best)
    ratio, differs = speed(before.latency_ms, best.latency_ms), differ(before.latency_ms, best.latency_ms)
    if old is None or new is None or ratio is None or differs is None:
        return []
    if ratio < 1 - TIMING_NOISE or best.flops >= 0.95 * before.flops:
        return []
    text = (
        f"{1 - best.flops / before.flops:.0%} fewer FLOPs did not make {best.target} faster here: "
        f"{old:.2f} ms before, {new:.2f} ms after{_in_turns_clause(before, best)}."
    )
    return [Remark("flops_are_not_time", text, {"before_ms": old, "after_ms": new})]
