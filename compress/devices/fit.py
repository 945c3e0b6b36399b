"""`ms = a + b x GFLOPs`, fitted to published times of whole networks: `published_latency.csv`, beside this file.

One row is one network on one device. `ms` is inference alone at batch 1, as the page in `source` has it; `gflops` are
of the fused network at `imgsz` in our convention (1 MAC = 2 FLOPs), counted by `compress.get_flops`.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compress.config import LatencyFit

PUBLISHED = Path(__file__).with_name("published_latency.csv")


def published() -> dict[str, list[dict[str, str]]]:
    """{profile: rows of the table}."""
    rows = defaultdict(list)
    with PUBLISHED.open(newline="") as file:
        for row in csv.DictReader(file):
            rows[row["profile"]].append(row)
    return dict(rows)


def fits(rows: Sequence[dict[str, str]]) -> list[LatencyFit]:
    """A line for each runtime and precision among the rows of one profile."""
    groups: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        groups[row["runtime"], row["precision"]].append((float(row["gflops"]), float(row["ms"])))
    return [_fit(runtime, precision, points) for (runtime, precision), points in groups.items()]


def _fit(runtime: str, precision: str, points: Sequence[tuple[float, float]]) -> LatencyFit:
    """Least squares of the relative error: the small networks, whose times decide here, weigh as much as the large."""
    gflops, ms = np.array(points).T
    a, b = np.linalg.lstsq(np.stack([1 / ms, gflops / ms], axis=1), np.ones_like(ms), rcond=None)[0]
    error = float(np.abs((a + b * gflops) / ms - 1).max())
    return LatencyFit(
        runtime=runtime,
        precision=precision,
        a_ms=_rounded(a),
        b_ms_per_gflop=_rounded(b),
        error=round(error, 3),
        gflops=[_rounded(gflops.min()), _rounded(gflops.max())],
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
