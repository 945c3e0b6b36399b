"""Fits latency lines to `compress/devices/published_latency.csv` and writes them to `conf/device/*.yaml`.

    python scripts/fit_devices.py [FOLDER]

Run it after adding rows to the table. All rows of a profile must come from one device. The lines are the end of a file,
from the comment `MARKER` on. What is above it is written by hand and stays. A row with a new profile creates a new
file; files of devices without published latencies do not change.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from compress.config import CONF, LatencyFit
from compress.devices import fit

MARKER = "# Written by scripts/fit_devices.py, as is all below: "


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=CONF / "device", help="folder of the profiles")
    folder = parser.parse_args().folder
    for profile, rows in fit.published().items():
        path = folder / f"{profile}.yaml"
        existing = path.read_text() if path.exists() else f"# {rows[0]['device']}\nname: {profile}\n"
        path.write_text(existing.partition(MARKER)[0] + fitted(rows))
    return 0


def fitted(rows: list[dict[str, str]]) -> str:
    """The fitted lines of a device and their source, as the end of its YAML file."""
    sources = ", ".join(dict.fromkeys(row["source"] for row in rows))
    networks = ", ".join(dict.fromkeys(row["model"] for row in rows))
    lines = [
        f"{MARKER}published latencies of",
        f"# {networks} at {rows[0]['imgsz']} px, batch 1.",
        f'source: "{sources}"',
        "# ms = a_ms + b_ms_per_gflop * GFLOPs between the two `gflops`. `error`: largest relative error for",
        "# a network left out of the fit; `error_fitted`: for those in it. Each profile fits one model generation.",
        "fits:",
        *(_line(line) for line in fit.fits(rows)),
    ]
    return "\n".join(lines) + "\n"


def _line(line: LatencyFit) -> str:
    return (
        f"  - {{runtime: {line.runtime}, precision: {line.precision}, a_ms: {line.a_ms}, "
        f"b_ms_per_gflop: {line.b_ms_per_gflop}, error: {line.error}, "
        f"error_fitted: {line.error_fitted}, gflops: {line.gflops}}}"
    )


if __name__ == "__main__":
    sys.exit(main())
