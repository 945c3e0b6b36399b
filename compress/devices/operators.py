"""What the operators of a network cost on any device: arithmetic and memory traffic. Imports no torch."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

FILE = "operators.csv"  # of the exported model, in the folder of artifacts of a run
PUBLISHED = Path(__file__).with_name("published_networks.csv")


@dataclass(frozen=True)
class Operator:
    """One operator at batch 1. Sizes are numbers of values; their bytes depend on the precision."""

    macs: int
    activations: int  # read and written
    weights: int
    rows: int  # of the weight matrix: output channels per group; 0 without weights
    fusible: bool  # part of a SiLU, which some runtimes compute within the convolution before it
    kind: str = ""  # ONNX operator; "DepthwiseConv" for one input channel per group
    written: int = 0  # of the activations
    columns: int = 1  # of the weight matrix: input channels per group; or the values that each product sums
    groups: int = 1  # of the channels, or matrices
    taps: int = 1  # of the window of a convolution or a pooling
    activation: str = ""  # ONNX operator that every runtime computes within this one


CONVERSIONS: dict[str, Callable[[str], Any]] = {"int": int, "bool": lambda text: bool(int(text)), "str": str}


def published_networks() -> dict[str, tuple[Operator, ...]]:
    """{network: operators} of the networks in `published_latency.csv`, written by `scripts/count_networks.py`."""
    return dict(read(PUBLISHED))


@cache
def read(path: Path) -> dict[str, tuple[Operator, ...]]:
    """{network: operators} of a table that `write` has written. Raises KeyError or ValueError if it is another file."""
    networks: dict[str, list[Operator]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            values = {each.name: CONVERSIONS[str(each.type)](row[each.name]) for each in fields(Operator)}
            networks[row["model"]] += [Operator(**values)] * int(row["count"])
    return {name: tuple(operators) for name, operators in networks.items()}


def write(networks: Iterable[tuple[str, Iterable[Operator]]], path: Path) -> None:
    """Writes a table of networks. Equal operators of a network are one line, with their number."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "count", *(field.name for field in fields(Operator))])
        for name, operators in networks:
            for operator, count in Counter(operators).items():
                values = [each if isinstance(each, str) else int(each) for each in astuple(operator)]
                writer.writerow([name, count, *values])
