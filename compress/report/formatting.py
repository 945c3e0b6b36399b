"""Formats ledger values as text, for the terminal and the HTML pages alike. A missing number is a dash, never zero."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from compress.budget import Check, Verdict
from compress.ledger import Provenance, Row
from compress.report.changes import Change

MISSING = "–"
SAME_ACCURACY = 5e-4  # smaller changes are printed, but not coloured as better or worse
CONVENTIONS = (
    "FLOPs = 2 × MACs. ×0.50 means half of the earlier value. Latencies are compared only within one runtime on one "
    "device; 'host' is the machine of the run, never the target device. Latency changes are measured in turns with "
    "the baseline; (noise) marks changes within measurement noise."
)
ACCEPTANCE = "contract."  # prefix of the names of acceptance checks
MARKS: dict[object, str] = {True: "met", False: "MISSED", None: "unknown"}


def decimal(value: float | None, digits: int, unit: float = 1) -> str:
    return MISSING if value is None else f"{value / unit:.{digits}f}"


def giga(value: float | None, digits: int = 3) -> str:
    return decimal(value, digits, 1e9)


def mega(value: float | None, digits: int = 2) -> str:
    return decimal(value, digits, 1e6)


def flops_unit(flops: float) -> tuple[str, float]:
    """Unit for the FLOPs of networks of about this size, and its value."""
    return ("GFLOPs", 1e9) if flops >= 1e8 else ("MFLOPs", 1e6)


def int8_percent(row: Row) -> tuple[str, str]:
    """Percentage of MACs computed in INT8, and its source, "" if the runtime reported it."""
    if row.int8_mac_share is None:
        return MISSING, ""
    source = row.int8_mac_share_obtained
    return f"{100 * row.int8_mac_share:.1f}\N{NO-BREAK SPACE}%", "" if source in (None, "runtime") else f"by {source}"


def accuracy(row: Row) -> tuple[str, str, str]:
    """`0.2901`, `[0.2781, 0.3021]`, and the provenance, "" if it was measured; "" for what is unknown."""
    score = row.accuracy
    if score is None:
        return MISSING, "", ""
    interval = f"[{score.ci95[0]:.4f}, {score.ci95[1]:.4f}]" if score.ci95 else ""
    return f"{score.value:.4f}", interval, provenance(score.obtained)


def quality(rows: Sequence[Row]) -> str:
    """What the metric of a ledger states: "accuracy", or without labels "agreement", with the unpruned model."""
    return "agreement" if any(row.accuracy and row.accuracy.is_agreement for row in rows) else "accuracy"


def latency(row: Row) -> str:
    """Median in ms, with its provenance unless it was measured, and whether other programs occupied the CPU."""
    timing = row.latency_ms
    if timing is None or timing.median is None:
        return "not run" if timing and timing.obtained is Provenance.not_run else MISSING
    notes = (provenance(timing.obtained), "contended" if timing.contended else "")
    return annotated(f"{timing.median:.2f}", *notes)


def common_conditions(rows: Sequence[Row]) -> str:
    """The `conditions` of all latencies; "" if they differ, or there are none."""
    found = {conditions(row) for row in rows if row.latency_ms and row.latency_ms.median is not None}
    return found.pop() if len(found) == 1 else ""


def p95(row: Row) -> str:
    return decimal(row.latency_ms.p95 if row.latency_ms else None, 2)


def timing_setup(row: Row) -> str:
    """Runtime, precision, threads, batch and device of a latency: `openvino bf16 2 thr b1 host`."""
    timing = row.latency_ms
    if timing is None or timing.median is None:
        return MISSING
    return f"{timing.runtime or 'runtime?'} {inference_precision(row)} {conditions(row)}"


def conditions(row: Row) -> str:
    """Threads, batch and device of a latency: `2 thr b1 host`."""
    timing = row.latency_ms
    threads = "threads n/a" if timing is None or timing.threads is None else f"{timing.threads} thr"
    batch = "batch?" if timing is None or timing.batch is None else f"b{timing.batch}"
    return f"{threads} {batch} {(timing and timing.device) or 'device?'}"


def device(row: Row) -> str:
    return str(row.latency_ms and row.latency_ms.device)


def inference_precision(row: Row) -> str:
    """The precision that the runtime computed in; if it reported none, that of the file, labelled as such."""
    return (row.latency_ms and row.latency_ms.inference_precision) or f"{row.precision} file"


def end_to_end(row: Row) -> str:
    """The median, and the part of it that is not inference."""
    if row.end_to_end_ms is None:
        return MISSING
    outside = row.end_to_end_ms.prepare + row.end_to_end_ms.decode
    return f"{row.end_to_end_ms.median:.2f} ({outside:.2f} outside of the network)"


def roof(row: Row) -> str:
    return MISSING if row.roof_fraction is None else f"{row.roof_fraction:.0%}"


def energy(row: Row) -> str:
    return annotated(f"{row.energy_mj.value:.2f}", provenance(row.energy_mj.obtained)) if row.energy_mj else MISSING


def provenance(obtained: Provenance | None) -> str:
    """ "" for a measured number; any other provenance is stated, an unknown one too."""
    return "" if obtained is Provenance.measured else (obtained or "origin not stated").replace("_", " ")


def annotated(text: str, *notes: str) -> str:
    """The text, then each note in parentheses."""
    return " ".join([text, *(f"({note})" for note in notes if note)])


def accuracy_text(row: Row) -> str:
    value, interval, source = accuracy(row)
    return annotated(f"{value} {interval}".rstrip(), source)


def change_parts(change: Change) -> list[tuple[str, str, bool | None]]:
    """(quantity, amount, better) of each number that changed; `better` is None if it is neither better nor worse."""
    parts: list[tuple[str, str, bool | None]] = []
    if change.flops is not None and change.flops != 1:
        parts.append(("FLOPs", f"×{change.flops:.2f}", change.flops < 1))
    if change.accuracy is not None:
        better = None if abs(change.accuracy) < SAME_ACCURACY else change.accuracy > 0
        parts.append(("agreement" if change.agreement else "acc", signed(change.accuracy), better))
    if change.latency is not None:
        precisions = f" ({change.precisions[0]}→{change.precisions[1]})" if change.precisions else ""
        better = change.latency < 1 if change.latency_differs else None
        parts.append(("lat", latency_ratio(change) + precisions, better))
    return parts


def latency_ratio(change: Change) -> str:
    """`×0.72`, or with its reservation: `×1.01 (noise)`, `×1.90 (contended)`."""
    if change.latency is None:
        return ""
    reservation = {True: "", False: " (noise)", None: " (contended)"}
    return f"×{change.latency:.2f}{reservation[change.latency_differs]}"


def change(difference: Change) -> str:
    return "  ".join(f"{quantity} {amount}" for quantity, amount, _ in change_parts(difference)) or MISSING


def signed(value: float, digits: int = 4) -> str:
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if float(f"{value:.{digits}f}") else f"{0:.{digits}f}"


def value_and_limit(check: Check) -> tuple[str, str]:
    """A checked value and its limit, with enough digits that rounding does not make different numbers look equal."""
    value, limit = check.value, check.limit
    if value is None or not math.isfinite(value):
        return MISSING if value is None else str(value), _significant(limit, 4)
    for digits in range(4, 17):
        first, second = _significant(value, digits), _significant(limit, digits)
        if value == limit or first != second:
            return first, second
    return repr(value), repr(limit)


def _significant(value: float, digits: int) -> str:
    for factor, unit in ((1e9, " G"), (1e6, " M")):
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g}{unit}"
    return f"{value:.{max(digits, len(str(int(abs(value)))))}g}".replace("-", "−")


def folded_checks(verdict: Verdict | None) -> tuple[list[Check], list[Check]]:
    """The checks that one line stands for, and all others. Folded are the acceptance checks of artifacts that passed
    and, of a limit that all artifacts meet, all but the one closest to it."""
    checks = verdict.checks if verdict else ()
    hidden: list[Check] = [each for each in checks if each.name.startswith(ACCEPTANCE) and each.met]
    for name in dict.fromkeys(each.name for each in checks if not each.name.startswith(ACCEPTANCE)):
        same = [each for each in checks if each.name == name]
        if all(each.met for each in same) and len({each.limit for each in same}) == 1:
            closest = max(same, key=lambda each: each.value or 0.0)
            hidden += [each for each in same if each is not closest]
    return hidden, [each for each in checks if not any(each is other for other in hidden)]


def folded(checks: Sequence[Check]) -> str:
    """One line that stands for all checks that were folded."""
    passed = [each for each in checks if each.name.startswith(ACCEPTANCE)]
    limits = Counter(each.name for each in checks if not each.name.startswith(ACCEPTANCE))
    texts = []
    if passed:
        targets = ", ".join(dict.fromkeys(str(check.target) for check in passed))
        texts.append(f"{len(passed)} acceptance checks of exported artifacts ({targets}), run in a fresh process")
    for name, count in limits.items():
        texts.append(f"{name} of {count} further artifact{'s' * (count > 1)}, none closer to the limit")
    return "; ".join(texts)


def check(judged: Check) -> str:
    """`budget.flops: 0.4383 G, limit 0.4391 G FLOPs`."""
    value, limit = value_and_limit(judged)
    artifact = checked_artifact(judged)
    name = judged.name + (f" [{artifact}]" if artifact else "")
    return f"{name}: {value}, limit {limit} {judged.unit}".rstrip()


def checked_artifact(judged: Check) -> str:
    """`openvino/int8`; "" for a check of the whole run."""
    return "/".join(filter(None, (judged.target, judged.precision)))


def headline(verdict: Verdict | None) -> str:
    if verdict is None:
        return "Not judged"
    if not verdict.checks and verdict.met:
        return "Nothing to judge"
    return {True: "Budget met", False: "Budget not met", None: "Undetermined"}[verdict.met]
