"""Fits `ms = a + b x GFLOPs` to the published latencies of whole networks in `published_latency.csv`. One row is one
network on one device. `ms` is the latency of inference alone at batch 1, published on the page `source`. `gflops` are
those of the fused network at `imgsz` (1 MAC = 2 FLOPs), counted by `compress.get_flops`."""

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
    """Fits one line per runtime and precision to the rows of one profile."""
    groups: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        groups[row["runtime"], row["precision"]].append((float(row["gflops"]), float(row["ms"])))
    result = []
    for (runtime, precision), points in groups.items():
        a, b = line(points)
        result.append(
            LatencyFit(
                runtime, precision, _rounded(a), _rounded(b),
                error=round(left_out_error(points), 3), error_fitted=round(largest_error((a, b), points), 3),
                gflops=[_rounded(min(points)[0]), _rounded(max(points)[0])],
            )
        )  # fmt: skip
    return result


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fits (a, b) to points (GFLOPs, ms) by least squares of the relative error: small networks, whose latencies matter
    here, have the same weight as large ones."""
    gflops, ms = np.array(points).T
    a, b = np.linalg.lstsq(np.stack([1 / ms, gflops / ms], axis=1), np.ones_like(ms), rcond=None)[0]
    return float(a), float(b)


def largest_error(fitted: tuple[float, float], points: Sequence[tuple[float, float]]) -> float:
    """Largest |predicted / published - 1| of the line (a, b) at points (GFLOPs, ms)."""
    a, b = fitted
    return max(abs((a + b * gflops) / ms - 1) for gflops, ms in points)


def left_out_error(points: Sequence[tuple[float, float]]) -> float:
    """Largest relative error in leave-one-out cross-validation; all rows of a network are left out together."""
    return max(
        largest_error(line([point for point in points if point[0] != left_out]), [(left_out, ms)])
        for left_out, ms in points
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
