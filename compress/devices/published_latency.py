"""Published latencies of whole networks: `published_latency.csv`. One row is one network on one device. `ms` is the
latency of inference alone at batch 1, published on the page `source`. `gflops` are those of the fused network at
`imgsz` (1 MAC = 2 FLOPs), counted by `compress.get_flops`."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

PUBLISHED = Path(__file__).with_name("published_latency.csv")


def rows() -> dict[str, list[dict[str, str]]]:
    """{profile: rows of the table}."""
    result = defaultdict(list)
    with PUBLISHED.open(newline="") as file:
        for row in csv.DictReader(file):
            result[row["profile"]].append(row)
    return dict(result)
