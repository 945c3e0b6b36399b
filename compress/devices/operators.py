"""What the operators of a network cost on any device: arithmetic and memory traffic. Imports no torch."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path

PUBLISHED = Path(__file__).with_name("published_networks.csv")


@dataclass(frozen=True)
class Operator:
    """One operator at batch 1. Sizes are numbers of values; their bytes depend on the precision."""

    macs: int
    activations: int  # read and written
    weights: int
    rows: int  # of the weight matrix: output channels per group; 0 without weights
    fusible: bool  # part of a SiLU, which some runtimes compute within the convolution before it


def published_networks() -> dict[str, tuple[Operator, ...]]:
    """{network: operators} of the networks in `published_latency.csv`, written by `scripts/count_networks.py`."""
    return dict(_read(PUBLISHED))


@cache
def _read(path: Path) -> dict[str, tuple[Operator, ...]]:
    networks: dict[str, list[Operator]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            macs, activations, weights, rows, fusible = (int(row[field.name]) for field in fields(Operator))
            networks[row["model"]] += [Operator(macs, activations, weights, rows, bool(fusible))] * int(row["count"])
    return {name: tuple(operators) for name, operators in networks.items()}


def write(networks: Iterable[tuple[str, Iterable[Operator]]], path: Path) -> None:
    """Writes a table of networks. Equal operators of a network are one line, with their number."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "count", *(field.name for field in fields(Operator))])
        for name, operators in networks:
            for operator, count in Counter(operators).items():
                writer.writerow([name, count, *map(int, astuple(operator))])
