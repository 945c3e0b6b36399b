"""Fits latency lines to `compress/devices/published_latency.csv` and writes them to `conf/device/*.yaml`.

    python scripts/fit_devices.py [FOLDER]

Run it after adding rows to the table. A row with a new profile creates a new file. All rows of a profile must come from
one device. The keys `targets`, `precisions` and `int8_saturates` of existing files are preserved; files of devices
without published latencies do not change.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from compress.config import CONF, LatencyFit
from compress.devices import fit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=CONF / "device", help="output folder of the profiles")
    folder = parser.parse_args().folder
    for profile, rows in fit.published().items():
        (folder / f"{profile}.yaml").write_text(text(profile, rows))
    return 0


def text(profile: str, rows: list[dict[str, str]]) -> str:
    """The device profile as YAML, with the hand-written keys of the existing file."""
    path = CONF / "device" / f"{profile}.yaml"
    existing = path.read_text().splitlines() if path.exists() else []
    preserved = [line for line in existing if line.startswith(("targets:", "precisions:", "int8_saturates:"))]
    sources = ", ".join(dict.fromkeys(row["source"] for row in rows))
    networks = ", ".join(dict.fromkeys(row["model"] for row in rows))
    lines = [
        f"# {rows[0]['device']}: published latencies of {networks} at {rows[0]['imgsz']} px, batch 1.",
        "# Written by scripts/fit_devices.py.",
        f"name: {profile}",
        *preserved,
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
