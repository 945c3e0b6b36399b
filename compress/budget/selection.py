"""Which rows of a ledger are compared: the baseline, the final artifacts, and the artifact recommended for a target."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from compress.config import HOST, DeviceConfig
from compress.ledger import Provenance, Row
from compress.timing_noise import differ, speed


def baseline(rows: Sequence[Row], target: str | None = None) -> Row:
    """The row that all others are compared with, of torch or of a target's FP32 graph. Raises IndexError if none."""
    return [row for row in rows if row.target == target and row.stage in ("load", "train")][-1]


def recommend(rows: Sequence[Row], target: str | None, precisions: Sequence[str] = ()) -> Row:
    """The artifact to deploy on a target: the first of the device's `precisions` if it declares an order, else the
    fastest. Ties within noise, and artifacts without a latency, are decided by the fewest bit operations, which is also
    the smallest file."""
    own = [row for row in rows if row.target == target]
    declared = [row for precision in precisions for row in own if row.precision == precision]
    if declared:
        return declared[0]
    timed = [row for row in own if median(row) is not None]
    if not timed:
        return min(own, key=lambda row: row.bit_operations)
    fastest = fastest_of(timed)
    ties = [row for row in timed if not differ(fastest.latency_ms, row.latency_ms)]
    return min(ties, key=lambda row: row.bit_operations)


def fastest_of(timed: Sequence[Row]) -> Row:
    """The fastest of rows with a latency."""
    return min(timed, key=lambda row: speed(timed[0].latency_ms, row.latency_ms) or 0.0)


def median(row: Row) -> float | None:
    return row.latency_ms.median if row.latency_ms else None


def final_rows(rows: Sequence[Row]) -> list[Row]:
    """Rows of the run's result: the exported artifacts, else the quantized graphs."""
    exported, quantized = (
        [row for row in rows if row.stage == stage and row.target is not None] for stage in ("export", "quantize")
    )
    return exported or quantized


def to_deploy(
    rows: Sequence[Row], device: str, precisions: Sequence[str], limit_ms: float | None = None
) -> dict[str | None, Row]:
    """The artifact recommended for each target, by latencies from `device` if it has any. `precisions`: as in
    `recommend`; `limit_ms`: the latency that the budget allows."""
    artifacts = final_rows(rows)
    here = [row for row in artifacts if not from_another_device(row)]
    there = [row for row in artifacts if device != HOST and timed_on(row, device)]
    by_host = {target: recommend(here, target, precisions) for target in dict.fromkeys(row.target for row in here)}
    return {target: _recommended_on_device(there, row, limit_ms) for target, row in by_host.items()}


def _recommended_on_device(rows: Sequence[Row], by_host: Row, limit_ms: float | None) -> Row:
    """The fastest of `rows`, which were timed on the device, with the target of `by_host`. Returns `by_host` if there
    is none, or if its precision was not timed on the device and the fastest row does not meet `limit_ms`."""
    timed = [row for row in rows if row.target == by_host.target]
    if not timed:
        return by_host
    fastest = recommend(timed, by_host.target)
    known = by_host.precision in {row.precision for row in timed}
    meets = limit_ms is not None and (median(fastest) or math.inf) <= limit_ms
    return fastest if known or meets else by_host


def same_runtime_fp32(rows: Sequence[Row], int8: Row) -> Row | None:
    """The FP32 row of the same network in the same runtime."""
    key = (int8.target, "fp32", int8.flops)
    same = [row for row in rows if (row.target, row.precision, row.flops) == key and not from_another_device(row)]
    return same[-1] if same else None


def accuracy_drop(reference: Row | None, row: Row) -> float | None:
    """Accuracy of `reference` minus that of `row`; None if either was not measured."""
    if reference is None or reference.accuracy is None or row.accuracy is None:
        return None
    return reference.accuracy.value - row.accuracy.value


def latency_on(row: Row, device: str) -> float | None:
    """Median milliseconds if measured on the device of the budget, else None."""
    return median(row) if timed_on(row, device) else None


def energy_on(row: Row, device: DeviceConfig) -> float | None:
    """Millijoules of one image on the device of the budget: as measured there, else the power of the board under load x
    the latency that was measured there (W x ms = mJ). None without either."""
    if not timed_on(row, device.name):
        return None
    if row.energy_mj is not None:
        return row.energy_mj.value
    milliseconds = median(row)
    return None if milliseconds is None else device.energy_mj(milliseconds)


def timed_on(row: Row, device: str) -> bool:
    """True if the latency was measured on a device; `Raspberry Pi 5` is the profile `raspberry_pi_5`."""
    latency = row.latency_ms
    if latency is None or latency.obtained is not Provenance.measured:
        return False
    return plain(str(latency.device)) == plain(device)


def from_another_device(row: Row) -> bool:
    """True for a row that was added from a bench kit."""
    return row.latency_ms is not None and row.latency_ms.device not in (None, HOST)


def plain(name: str) -> str:
    """The name of a device in the form of the profiles: "Raspberry Pi 5" is raspberry_pi_5."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
