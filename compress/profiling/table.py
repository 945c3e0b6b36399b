"""Terminal tables and CSV of profiles."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from compress.measurement.roofline import Roofline
from compress.profiling.profile import Layer, Profile

MISSING = "-"
ORDERS: dict[str, Callable[[Layer], float]] = {
    "time": lambda layer: -layer.ms,
    "flops": lambda layer: -layer.flops,
    "bytes": lambda layer: -layer.bytes,
    "order": lambda layer: 0,  # of execution
}
MARK = "<"  # of a layer that is cheap in FLOPs and dear in time
NOTES = """\
1 MAC = 2 FLOPs; GFLOPs of convolutions, linear layers and matrix products. FLOPs are work, GFLOPS (10^9/s) are speed.
MB are read and written, nothing fused; peak MB of activations, in place: if elementwise operators reuse memory.
Times: one image, median; of layers by the profiler of the first runtime, "-": it has none.
peak, roof: fractions of this machine's peak, and of what FLOPs per byte and memory bandwidth allow."""


@dataclass(frozen=True)
class Column:
    name: str
    text: Callable[[Profile], str]


MODEL_COLUMNS = (
    Column("model", lambda p: p.name),
    Column("px", lambda p: str(p.imgsz)),
    Column("modules", lambda p: _optional(p.modules)),
    Column("params M", lambda p: f"{p.params / 1e6:.3f}"),
    Column("unfused M", lambda p: MISSING if p.net_params is None else f"{p.net_params / 1e6:.3f}"),
    Column("gradients M", lambda p: MISSING if p.gradients is None else f"{p.gradients / 1e6:.3f}"),
    Column("GFLOPs", lambda p: f"{p.flops / 1e9:.4g}"),
    Column("other GFLOPs", lambda p: f"{p.other_flops / 1e9:.3g}"),
    Column("MB moved", lambda p: f"{p.bytes_moved / 1e6:.4g}"),
    Column("FLOPs/byte", lambda p: f"{p.intensity:.3g}"),
    Column("peak MB", lambda p: f"{p.activation_bytes / 1e6:.4g}"),
    Column("in place MB", lambda p: f"{p.activation_bytes_in_place / 1e6:.4g}"),
    Column("file MB", lambda p: f"{p.size_bytes / 1e6:.4g}"),
    Column("bit ops G", lambda p: f"{p.bit_operations / 1e9:.4g}"),
)


def models(profiles: Sequence[Profile]) -> Table:
    """One row per model: its costs."""
    table = empty([column.name for column in MODEL_COLUMNS], left=1)
    for profile in profiles:
        table.add_row(*(Text(column.text(profile)) for column in MODEL_COLUMNS))
    return table


def speeds(profiles: Sequence[Profile]) -> Table:
    """One row per model and runtime."""
    table = empty(["model", "runtime", "format", "ms", "p95", "images/s", "GFLOPS", "peak", "roof", ""], left=3)
    for profile in profiles:
        for speed in profile.speeds:
            table.add_row(
                profile.name, speed.runtime, speed.precision, f"{speed.ms:.3g}", f"{speed.p95:.3g}",
                f"{1000 / speed.ms:.4g}", f"{speed.gflops_per_second:.4g}", _percent(speed.peak_fraction),
                _percent(speed.roof_fraction), "other programs used the CPU" if speed.contended else "",
            )  # fmt: skip
        for runtime, reason in profile.failures.items():
            table.add_row(profile.name, runtime, *[MISSING] * 7, Text(reason))
    return table


def arithmetic(profile: Profile) -> list[str]:
    """Lines about the arithmetic outside products, by kind, and about operators that were not counted."""
    lines = []
    if profile.other_flops:
        parts = (f"{kind} {flops / profile.other_flops:.0%}" for kind, flops in profile.other_by_kind.items())
        lines.append(f"{profile.name}: other FLOPs: {', '.join(parts)}")
    if profile.unknown:
        calls = ", ".join(f"{name} ({calls})" for name, calls in profile.unknown.items())
        lines.append(f"{profile.name}: not counted, without a formula: {calls}; all figures are lower bounds")
    return lines


def layers(profile: Profile, order: str, most: int) -> Table:
    """The first `most` layers in an order; all if it is 0."""
    names = ["layer", "operators", "output", "params", "MFLOPs", "MB", "FLOPs/byte", "ms", "time", "FLOPs", "GFLOPS"]
    names.append("")  # of the mark
    table = empty(names, left=3)
    for layer in ordered(profile, order)[: most or None]:
        table.add_row(
            Text(layer.name or "(runtime)"), Text(_shortened(layer.operators)), "x".join(map(str, layer.output[1:])),
            f"{layer.params:,}", f"{layer.flops / 1e6:,.1f}", f"{layer.bytes / 1e6:.2f}", f"{layer.intensity:.3g}",
            _duration(layer, profile), _percent(layer.time_fraction if profile.layers_timed else None),
            _percent(layer.flops_fraction),
            MISSING if layer.gflops_per_second is None else f"{layer.gflops_per_second:.4g}",
            MARK if layer.dear else "",
        )  # fmt: skip
    return table


def kinds(profile: Profile, most: int = 8) -> Table:
    """The kinds of layers that take most of the time."""
    groups: dict[str, list[Layer]] = {}
    for layer in profile.layers:
        groups.setdefault(layer.operators, []).append(layer)
    table = empty(["kind of layer", "layers", "MFLOPs", "MB", "ms", "time", "FLOPs"], left=1)
    for operators, group in sorted(groups.items(), key=lambda each: -sum(layer.ms for layer in each[1]))[:most]:
        table.add_row(
            Text(_shortened(operators)), str(len(group)), f"{sum(layer.flops for layer in group) / 1e6:,.1f}",
            f"{sum(layer.bytes for layer in group) / 1e6:.1f}",
            f"{sum(layer.ms for layer in group):.2f}" if profile.layers_timed else MISSING,
            _percent(sum(layer.time_fraction for layer in group) if profile.layers_timed else None),
            _percent(sum(layer.flops_fraction for layer in group)),
        )  # fmt: skip
    return table


def ordered(profile: Profile, order: str) -> list[Layer]:
    return sorted(profile.layers, key=ORDERS[order])


def dear_text(profile: Profile) -> str:
    """A sentence about the layers that are cheap in FLOPs and dear in time, or whose times are not known; empty without
    any."""
    if not profile.layers_timed:
        return "The runtime of this file has no profiler of operators: the times of layers are not known"
    dear = [layer for layer in profile.layers if layer.dear]
    if not dear:
        return ""
    time, flops = sum(layer.time_fraction for layer in dear), sum(layer.flops_fraction for layer in dear)
    taken = f"{len(dear)} layers take {time:.0%} of the time and {flops:.1%} of the FLOPs"
    return f"{MARK} cheap in FLOPs, dear in time: {taken}"


def machine(roofline: Roofline) -> str:
    """One line about this machine's roofline."""
    peaks = ", ".join(
        f"{peak:,.0f} {'GOPS' if name == 'int8' else 'GFLOPS'} {name} (ridge {roofline.ridge(name):.0f} per byte)"
        for name, peak in sorted(roofline.peak_gops.items())
    )
    doubt = " (other programs used the CPU: may be too low)" if roofline.contended else ""
    return f"{roofline.threads} threads: {peaks}; memory {roofline.bandwidth_gb_s:.1f} GB/s{doubt}"


def as_csv(profiles: Sequence[Profile], order: str) -> str:
    """One line per model and layer."""
    text = io.StringIO()
    fields = (
        "model layer operators output params macs flops other_flops bit_operations bytes intensity ms time_fraction "
        "flops_fraction gflops_per_second dear"
    ).split()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(fields)
    for profile in profiles:
        for layer in ordered(profile, order):
            values = {**{name: getattr(layer, name) for name in fields[2:]}, "output": "x".join(map(str, layer.output))}
            writer.writerow([profile.name, layer.name, *values.values()])
    return text.getvalue()


def empty(names: Sequence[str], left: int) -> Table:
    """An empty table; the first `left` columns are text, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index < left or not name else "right", overflow="fold")
    return table


def _shortened(operators: str) -> str:
    """At most three operators and the number of the others."""
    names = operators.split(", ")
    return ", ".join(names[:3]) + (f" +{len(names) - 3}" if len(names) > 3 else "")


def _duration(layer: Layer, profile: Profile) -> str:
    return f"{layer.ms:.3f}" if layer.ms else "fused" if profile.layers_timed else MISSING


def _percent(fraction: float | None) -> str:
    return MISSING if fraction is None else f"{fraction:.1%}"


def _optional(value: int | None) -> str:
    return MISSING if value is None else str(value)
