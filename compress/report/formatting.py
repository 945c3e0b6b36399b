"""Formats ledger values as text, for the terminal and the HTML pages alike. A missing number is a dash, never zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress.report.changes import Change
from compress.report.run_reader import Row, number, part
from compress.timing_noise import contended

MISSING = "–"
SAME_ACCURACY = 5e-4  # smaller changes are printed, but not coloured as better or worse
CONVENTIONS = (
    "FLOPs = 2 × MACs. ×0.50 means half of the earlier value. Latencies are compared only within one runtime on one "
    "device; 'host' is the machine of the run, never the target device. Latency changes are measured in turns with "
    "the baseline; (noise) marks changes within measurement noise."
)
HEADLINES: dict[object, str] = {True: "Budget met", False: "Budget not met", None: "Undetermined"}
MARKS: dict[object, str] = {True: "met", False: "MISSED", None: "unknown"}


def target_name(row: Row) -> str:
    """The target; for a product without one "torch", or "as given" for a model file run by another runtime."""
    runtime = str(part(row, "latency_ms").get("runtime") or "torch")
    return str(row.get("target") or ("torch" if runtime.startswith("torch") else "as given"))


def giga(value: Any, digits: int = 3) -> str:
    return _scaled(value, 1e9, digits)


def mega(value: Any, digits: int = 2) -> str:
    return _scaled(value, 1e6, digits)


def _scaled(value: Any, unit: float, digits: int) -> str:
    amount = number(value)
    return MISSING if amount is None else f"{amount / unit:.{digits}f}"


def percent(value: Any) -> str:
    fraction = number(value)
    return MISSING if fraction is None else f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def int8_percent(row: Row) -> str:
    """Percentage of MACs computed in INT8, labelled unless the runtime reported it."""
    source = row.get("int8_mac_share_obtained")
    text = percent(row.get("int8_mac_share"))
    return text if text == MISSING or source in (None, "runtime") else f"{text} (by {source})"


def accuracy(row: Row) -> str:
    """`0.2901 ± 0.0120` or `0.2901 [0.2781, 0.3021]`, with its provenance unless it was measured."""
    score = part(row, "accuracy")
    value = number(score.get("value"))
    if value is None:
        return _missing(score)
    text = f"{value:.4f}"
    interval = accuracy_interval(row)
    if isinstance(score.get("ci95"), list) and interval:
        text += f" [{interval[0]:.4f}, {interval[1]:.4f}]"
    elif interval:
        text += f" ± {interval[1] - value:.4f}"
    return text + _provenance(score)


def accuracy_interval(row: Row) -> tuple[float, float] | None:
    """The 95 % interval of the accuracy. `ci95` is a half-width or a pair of bounds."""
    score = part(row, "accuracy")
    value, ci = number(score.get("value")), score.get("ci95")
    if isinstance(ci, list) and len(ci) == 2:
        low, high = number(ci[0]), number(ci[1])
        return (low, high) if low is not None and high is not None else None
    half = number(ci)
    return (value - half, value + half) if value is not None and half is not None else None


def latency(row: Row) -> str:
    """Median in ms, with its provenance unless it was measured, and whether other programs occupied the CPU."""
    timing = part(row, "latency_ms")
    median = number(timing.get("median"))
    if median is None:
        return _missing(timing)
    return f"{median:.2f}{_provenance(timing)}{' (contended)' if contended(timing) else ''}"


def latency_range(row: Row) -> str:
    """`5.61 to 5.94`: the range of the median over the measurement, in ms; "" if unknown."""
    low, high = (number(part(row, "latency_ms").get(name)) for name in ("low", "high"))
    return "" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def p95(row: Row) -> str:
    return _scaled(part(row, "latency_ms").get("p95"), 1, 2)


def timing_setup(row: Row) -> str:
    """Runtime, precision, threads, batch and device of a latency: `openvino bf16 2 thr b1 host`."""
    timing = part(row, "latency_ms")
    if number(timing.get("median")) is None:
        return MISSING
    threads, batch = timing.get("threads"), timing.get("batch")
    words = [
        str(timing.get("runtime") or "runtime?"),
        inference_precision(row),
        "threads n/a" if threads is None else f"{threads} thr",
        "batch?" if batch is None else f"b{batch}",
        str(timing.get("device") or "device?"),
    ]
    return " ".join(words)


def inference_precision(row: Row) -> str:
    """The precision that the runtime computed in; if it reported none, that of the file, labelled as such."""
    return str(part(row, "latency_ms").get("inference_precision") or f"{row.get('precision')} file")


def energy(row: Row) -> str:
    measured = row.get("energy_mj")
    if not isinstance(measured, dict):
        return _scaled(measured, 1, 2)
    value = number(measured.get("value", measured.get("median")))
    return MISSING if value is None else f"{value:.2f}{_provenance(measured)}"


def _missing(measured: dict[str, Any]) -> str:
    return "not run" if measured.get("obtained") == "not_run" else MISSING


def _provenance(measured: dict[str, Any]) -> str:
    """Empty for a measured number; any other provenance is stated, an unknown one too."""
    source = measured.get("obtained")
    return "" if source == "measured" else f" ({str(source).replace('_', ' ') if source else 'origin not stated'})"


def change_parts(change: Change) -> list[tuple[str, str, bool | None]]:
    """(quantity, amount, better) of each number that changed; `better` is None if it is neither better nor worse."""
    parts: list[tuple[str, str, bool | None]] = []
    if change.flops is not None and change.flops != 1:
        parts.append(("FLOPs", f"×{change.flops:.2f}", change.flops < 1))
    if change.accuracy is not None:
        better = None if abs(change.accuracy) < SAME_ACCURACY else change.accuracy > 0
        parts.append(("acc", signed(change.accuracy), better))
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


def value_and_limit(value: Any, limit: Any) -> tuple[str, str]:
    """A checked value and its limit, with enough digits that rounding does not make different numbers look equal."""
    a, b = number(value), number(limit)
    if a is None or b is None:
        return _plain(value), _plain(limit)
    for digits in range(4, 17):
        first, second = _significant(a, digits), _significant(b, digits)
        if a == b or first != second:
            return first, second
    return repr(a), repr(b)


def _significant(value: float, digits: int) -> str:
    for factor, unit in ((1e9, " G"), (1e6, " M")):
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g}{unit}"
    return f"{value:.{max(digits, len(str(int(abs(value)))))}g}".replace("-", "−")


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return MISSING if value is None else str(value).lower()
    converted = number(value)
    return str(value) if converted is None else _significant(converted, 4)


def is_passed_acceptance_check(check: dict[str, Any]) -> bool:
    return str(check.get("name")).startswith("contract.") and check.get("met") is True


def passed_acceptance_checks(checks: Sequence[dict[str, Any]]) -> str:
    """One line that stands for all acceptance checks that passed."""
    targets = ", ".join(dict.fromkeys(str(check.get("target")) for check in checks))
    return f"{len(checks)} acceptance checks of exported artifacts ({targets}), run in a fresh process"


def check(record: dict[str, Any]) -> str:
    """`budget.flops: 0.4383 G, limit 0.4391 G FLOPs`."""
    value, limit = value_and_limit(record.get("value"), record.get("limit"))
    artifact = checked_artifact(record)
    name = str(record.get("name")) + (f" [{artifact}]" if artifact else "")
    return f"{name}: {value}, limit {limit} {record.get('unit') or ''}".rstrip()


def checked_artifact(record: dict[str, Any]) -> str:
    """`openvino/int8`; "" for a check of the whole run."""
    return "/".join(str(record[name]) for name in ("target", "precision") if record.get(name))


def headline(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return "Not judged"
    if not verdict.get("checks") and verdict.get("met"):
        return "Nothing to judge"
    return HEADLINES[verdict.get("met")]
