"""The table of devices: peaks, memory, power, and the sources of these figures. Imports no torch. Its command line is
`compress profile --devices all`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compress.config import PRECISIONS, Basis, DeviceConfig, Figure, device_profiles
from compress.errors import Parser, UserError
from compress.units import format_flops

MARKS = {Basis.published: "", Basis.derived: "~", Basis.unverified: "?"}  # before a number
PLAIN_WIDTH = 400  # of output that is not a terminal: nothing is wrapped there
LEGEND = """\
FP32, FP16, INT8: peak in dense operations per second, 1 MAC = 2 operations. idle, load: watts. ridge: operations per
byte of memory traffic above which the INT8 peak is the limit, and below which the bandwidth is.
~ derived from published figures; ? unverified: no primary source; - not known. --sources lists where each is from."""


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 2 for an unknown device or an invalid profile."""
    parser = Parser(prog="compress profile", description=__doc__)
    parser.add_argument("--devices", required=True, help="all, or names separated by commas")
    parser.add_argument("--config-dir", type=Path, help="folder with profiles of your own, in its subfolder device/")
    parser.add_argument("--sources", action="store_true", help="list the source of every figure")
    try:
        options = parser.parse_args(arguments)
        names = None if options.devices == "all" else options.devices.split(",")
        show(device_profiles(names, options.config_dir), options.sources)
    except UserError as error:
        print(f"compress: error: {error}", file=sys.stderr)
        return 2
    return 0


def show(profiles: Mapping[str, DeviceConfig], with_sources: bool = False, console: Console | None = None) -> None:
    """Prints the table and its legend; `with_sources`: the source of every figure too."""
    console = console or Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(table(profiles))
    console.print(Text(LEGEND, style="dim"), soft_wrap=True)
    if with_sources:
        for line in sources(profiles):
            console.print(Text(line), soft_wrap=True)


def table(profiles: Mapping[str, DeviceConfig]) -> Table:
    """One row per device."""
    result = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    result.add_column("device", overflow="fold")
    for column in (*(precision.upper() for precision in PRECISIONS), "GB/s", "memory", "idle", "load", "ridge"):
        result.add_column(column, justify="right", no_wrap=True)
    for name, device in profiles.items():
        cells = [cell(device.peak_gops.get(precision), _operations) for precision in PRECISIONS]
        cells += [cell(device.bandwidth_gb_s), cell(device.memory_gb, _memory)]
        cells += [cell(device.idle_watts), cell(device.loaded_watts), cell(ridge(device))]
        result.add_row(Text(name), *map(Text, cells))
    return result


def cell(figure: Figure | None, text: Callable[[float], str] = "{:.4g}".format) -> str:
    """A figure as text after the mark of its basis; "-" if there is none."""
    return "-" if figure is None else MARKS[figure.basis] + text(figure.value)


def _operations(giga: float) -> str:
    """85500 -> "85.5T"."""
    return format_flops(giga * 1e9)


def _memory(gigabytes: float) -> str:
    """0.000512 -> "512 KB"."""
    scale, unit = next((pair for pair in ((1, "GB"), (1e-3, "MB")) if gigabytes >= pair[0]), (1e-6, "KB"))
    return f"{gigabytes / scale:.4g} {unit}"


def ridge(device: DeviceConfig) -> Figure | None:
    """The ridge point of the roofline in INT8 operations per byte; unverified if one of its two figures is."""
    peak, bandwidth = device.peak_gops.get("int8"), device.bandwidth_gb_s
    if peak is None or bandwidth is None:
        return None
    unverified = Basis.unverified in (peak.basis, bandwidth.basis)
    value = float(f"{peak.value / bandwidth.value:.3g}")
    return Figure(value, "INT8 peak / bandwidth", Basis.unverified if unverified else Basis.derived)


def sources(profiles: Mapping[str, DeviceConfig]) -> Iterable[str]:
    """Lines with every figure of every device, its basis and its source."""
    for name, device in profiles.items():
        yield ""
        yield name
        for key, figure in device.figures().items():
            yield f"  {key} {figure.value:g} ({figure.basis.name}): {figure.source}"
