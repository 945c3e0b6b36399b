"""Numbers in words, one way for the terminal and the HTML page. A missing number is a dash, never a zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress.report.chain import Change, number, part
from compress.report.run import Row
from compress.timing_noise import contended

NONE = "–"
SAME_ACCURACY = 5e-4  # smaller changes are printed, but not coloured as better or worse


def target_name(row: Row) -> str:
    """Where the product is no graph of a target: torch, or whatever else ran the file that was given."""
    runtime = str(part(row, "latency_ms").get("runtime") or "torch")
    return str(row.get("target") or ("torch" if runtime.startswith("torch") else "as given"))


def giga(value: Any, digits: int = 3) -> str:
    found = number(value)
    return NONE if found is None else f"{found / 1e9:.{digits}f}"


def mega(value: Any, digits: int = 2) -> str:
    found = number(value)
    return NONE if found is None else f"{found / 1e6:.{digits}f}"


def share(value: Any) -> str:
    found = number(value)
    return NONE if found is None else f"{100 * found:.1f}\N{NO-BREAK SPACE}%"


def int8_share(row: Row) -> str:
    """Read from the runtime, unless labelled as counted from the graph's Q/DQ placement."""
    how = row.get("int8_mac_share_obtained")
    text = share(row.get("int8_mac_share"))
    return text if text == NONE or how in (None, "runtime") else f"{text} (by {how})"


def accuracy(row: Row) -> str:
    """`0.2901 ± 0.0120`, with the way it was obtained unless it was measured."""
    found = part(row, "accuracy")
    value = number(found.get("value"))
    if value is None:
        return "not run" if found.get("obtained") == "not_run" else NONE
    text = f"{value:.4f}"
    interval = bounds(row)
    if isinstance(found.get("ci95"), list) and interval:
        text += f" [{interval[0]:.4f}, {interval[1]:.4f}]"
    elif interval:
        text += f" ± {interval[1] - value:.4f}"
    return text + _obtained(found)


def bounds(row: Row) -> tuple[float, float] | None:
    """The 95 % interval of the accuracy; `ci95` is a half-width or a pair of bounds."""
    found = part(row, "accuracy")
    value, ci = number(found.get("value")), found.get("ci95")
    if isinstance(ci, list) and len(ci) == 2:
        low, high = number(ci[0]), number(ci[1])
        return (low, high) if low is not None and high is not None else None
    half = number(ci)
    return (value - half, value + half) if value is not None and half is not None else None


def latency(row: Row) -> str:
    """Median in ms, with the way it was obtained unless it was measured, and whether others took the CPU meanwhile."""
    found = part(row, "latency_ms")
    median = number(found.get("median"))
    if median is None:
        return "not run" if found.get("obtained") == "not_run" else NONE
    return f"{median:.2f}{_obtained(found)}{' (contended)' if contended(found) else ''}"


def latency_range(row: Row) -> str:
    """`5.61 to 5.94`: between which the median stayed while it was measured; "" where that is not known."""
    low, high = (number(part(row, "latency_ms").get(name)) for name in ("low", "high"))
    return "" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def p95(row: Row) -> str:
    found = number(part(row, "latency_ms").get("p95"))
    return NONE if found is None else f"{found:.2f}"


def timed_as(row: Row) -> str:
    """What a latency is worth nothing without: runtime, the precision, threads, batch, device."""
    found = part(row, "latency_ms")
    if number(found.get("median")) is None:
        return NONE
    threads, batch = found.get("threads"), found.get("batch")
    facts = [
        str(found.get("runtime") or "runtime?"),
        computed_in(row),
        "threads n/a" if threads is None else f"{threads} thr",
        "batch?" if batch is None else f"b{batch}",
        str(found.get("device") or "device?"),
    ]
    return " ".join(facts)


def computed_in(row: Row) -> str:
    """The precision the runtime computed in; where it did not say, that of the file, said to be that."""
    return str(part(row, "latency_ms").get("inference_precision") or f"{row.get('precision')} file")


def energy(row: Row) -> str:
    found = row.get("energy_mj")
    if not isinstance(found, dict):
        return NONE if number(found) is None else f"{found:.2f}"
    value = number(found.get("value", found.get("median")))
    return NONE if value is None else f"{value:.2f}{_obtained(found)}"


def _obtained(found: dict[str, Any]) -> str:
    """Nothing for a measured number; anything else is said, an unstated origin too."""
    how = found.get("obtained")
    return "" if how == "measured" else f" ({str(how).replace('_', ' ') if how else 'origin not stated'})"


def change_parts(change: Change) -> list[tuple[str, str, bool | None]]:
    """(what, how much, better?) of each number that changed; `better` is None where it is neither."""
    parts: list[tuple[str, str, bool | None]] = []
    if change.flops is not None and change.flops != 1:
        parts.append(("FLOPs", f"×{change.flops:.2f}", change.flops < 1))
    if change.accuracy is not None:
        better = None if abs(change.accuracy) < SAME_ACCURACY else change.accuracy > 0
        parts.append(("acc", signed(change.accuracy), better))
    if change.latency is not None:
        note = f" ({change.precisions[0]}→{change.precisions[1]})" if change.precisions else ""
        better = change.latency < 1 if change.latency_differs else None
        parts.append(("lat", times(change) + note, better))
    return parts


def times(change: Change) -> str:
    """`×0.72`, and whether that says anything: `×1.01 (noise)`, `×1.90 (contended)`."""
    if change.latency is None:
        return ""
    doubt = {True: "", False: " (noise)", None: " (contended)"}
    return f"×{change.latency:.2f}{doubt[change.latency_differs]}"


def change(found: Change) -> str:
    return "  ".join(f"{what} {much}" for what, much, _ in change_parts(found)) or NONE


def signed(value: float, digits: int = 4) -> str:
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if float(f"{value:.{digits}f}") else f"{0:.{digits}f}"


def against(value: Any, limit: Any) -> tuple[str, str]:
    """A checked value and its limit, with enough digits that rounding cannot turn a miss into a tie."""
    a, b = number(value), number(limit)
    if a is None or b is None:
        return _plain(value), _plain(limit)
    for digits in range(4, 17):
        first, second = _figure(a, digits), _figure(b, digits)
        if a == b or first != second:
            return first, second
    return repr(a), repr(b)


def _figure(value: float, digits: int) -> str:
    for factor, unit in ((1e9, " G"), (1e6, " M")):
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g}{unit}"
    return f"{value:.{max(digits, len(str(int(abs(value)))))}g}".replace("-", "−")


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return NONE if value is None else str(value).lower()
    found = number(value)
    return str(value) if found is None else _figure(found, 4)


CONVENTIONS = (
    "FLOPs = 2 × MACs. ×0.50 = half of what it was. "
    "Latencies compare only in the same runtime on the same device; host never stands for a device. "
    "Their changes are measured in turns with the baseline; (noise): none that timing shows."
)
HEADLINES: dict[object, str] = {True: "Budget met", False: "Budget not met", None: "Undetermined"}
MARKS: dict[object, str] = {True: "met", False: "MISSED", None: "unknown"}


def is_kept_contract(check: dict[str, Any]) -> bool:
    """One of the many promises of an artifact, and it holds: no news where room is short."""
    return str(check.get("name")).startswith("contract.") and check.get("met") is True


def kept_contracts(kept: Sequence[dict[str, Any]]) -> str:
    """`contracts: 8 of onnxruntime, openvino, each reopened from disk in a fresh process`."""
    names = ", ".join(dict.fromkeys(str(check.get("target")) for check in kept))
    return f"contracts: {len(kept)} of {names}, each reopened from disk in a fresh process"


def check(found: dict[str, Any]) -> str:
    """`budget.flops: 0.4383 G, limit 0.4391 G FLOPs`."""
    value, limit = against(found.get("value"), found.get("limit"))
    return f"{check_name(found)}: {value}, limit {limit} {found.get('unit') or ''}".rstrip()


def check_name(found: dict[str, Any]) -> str:
    where = "/".join(str(found[name]) for name in ("target", "precision") if found.get(name))
    return str(found.get("name")) + (f" [{where}]" if where else "")


def headline(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return "Not judged"
    if not verdict.get("checks") and verdict.get("met"):
        return "Nothing to judge"
    return HEADLINES[verdict.get("met")]
