"""Compares parameters and FLOPs of YOLO networks with the figures that Ultralytics publishes.

    python scripts/benchmarks/published_counts.py [NAME ...]

`published_counts.csv` has the published figures, each with its source: a file of Ultralytics' documentation and the
commit of that file. The networks are built by name without weights, with the number of classes of the published ones,
and counted as they are deployed: fused, without the training heads of YOLO26. Other rounded parameters are explained if
those of the configuration file, which has 80 classes, are the published ones; a difference of more than 2 % of the
FLOPs, if another way to count, computed here, has the published figure to its rounding (WAYS). The exit status is 1 if
a difference is not explained.

At last the counts of `compress profile` are compared with those of Ultralytics' `model.info()`.
"""

from __future__ import annotations

import copy
import csv
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import torch
from torch import nn

import compress
from compress.config import ModelConfig
from compress.measurement.cost import Cost
from compress.models import build
from compress.models.ultralytics_package import quiet
from compress.profiling.profile import size_of

PUBLISHED = Path(__file__).with_name("published_counts.csv")
TOLERANCE = 0.02
STRIDE = 32  # pixels
CONFIGURED = 80  # classes of the configuration files
NOT_EXPLAINED = "not explained"
PROFILED = ("yolo11n", "yolo26n", "yolov8n")


@dataclass(frozen=True)
class Row:
    """One published network. `params` in 10⁶ and `gflops`, as published."""

    model: str
    height: int
    width: int
    classes: int
    params: float
    gflops: float
    source: str

    @property
    def cells(self) -> float:
        """Squares of STRIDE pixels in the image."""
        return self.height * self.width / STRIDE**2


def read() -> list[Row]:
    with open(PUBLISHED, newline="") as file:
        return [
            Row(
                row["model"], int(row["height"]), int(row["width"]), int(row["classes"]),
                float(row["params_m"]), float(row["gflops"]), row["source"],
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


def network(row: Row, classes: int | None = None) -> tuple[nn.Module, nn.Module]:
    """A network as trained and as deployed. Semantic segmentation, which this package does not load, is built by
    Ultralytics."""
    if "-sem" not in row.model:
        names = tuple(map(str, range(classes or row.classes)))
        model: Any = build(ModelConfig(name=row.model, imgsz=row.height), names)
        return model.net.eval(), model.deployed()
    from ultralytics.nn.tasks import SemanticSegmentationModel

    with quiet():
        net = SemanticSegmentationModel(f"{row.model}.yaml", ch=3, nc=classes or row.classes, verbose=False).eval()
        return net, copy.deepcopy(net).fuse(verbose=False)


def cost(net: nn.Module, height: int, width: int) -> Cost:
    return compress.measure(net, torch.zeros(1, 3, height, width))


def extrapolated(row: Row) -> float:
    """GFLOPs of an image of 32 px, times the area. That of linear layers does not grow with the area, and attention
    grows with its square."""
    return cost(network(row)[1], STRIDE, STRIDE).flops * row.cells / 1e9


def transposed(row: Row) -> float:
    """The same, with every transposed convolution counted as a convolution of its output: stride² times its cost."""
    net = network(row)[1]
    counted = cost(net, STRIDE, STRIDE)
    layers = {name: module for name, module in net.named_modules() if isinstance(module, nn.ConvTranspose2d)}
    more = sum(counted.layers[name].macs * (layer.stride[0] * layer.stride[1] - 1) for name, layer in layers.items())
    return (counted.flops + 2 * more) * row.cells / 1e9


def as_configured(row: Row) -> float:
    """GFLOPs of the configuration file: 80 classes, batch norms not fused. thop counts 4 MACs per value of a batch
    norm."""
    counted = cost(network(row, classes=CONFIGURED)[0], row.height, row.width)
    values = counted.other_by_kind["normalisation"] / 2  # two FLOPs per value
    return (counted.flops + 2 * 4 * values) / 1e9


WAYS: dict[str, Callable[[Row], float]] = {
    "extrapolated from 32 px": extrapolated,
    "extrapolated, transposed convolutions times stride²": transposed,
    "80 classes, not fused, batch norms counted": as_configured,
}


def same_rounding(value: float, published: float) -> bool:
    """Whether a value has the published figure, which has one decimal."""
    return f"{value:.1f}" == f"{published:.1f}"


def main() -> int:
    parser = common.parser(__doc__, threads=1)
    parser.add_argument("names", nargs="*", help="networks; default: all published ones")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    rows = [row for row in read() if not options.names or row.model in options.names]
    print("| network | size | parameters (published M) | GFLOPs | published | difference | from 32 px | explanation |")
    print("|---|---|---|---|---|---|---|---|")
    params = near = old = unexplained = 0
    for row in rows:
        counted = cost(network(row)[1], row.height, row.width)
        gflops, small = counted.flops / 1e9, extrapolated(row)
        difference = gflops / row.gflops - 1
        same = same_rounding(counted.params / 1e6, row.params)
        why = ["" if abs(difference) <= TOLERANCE else explanation(row), "" if same else of_parameters(row)]
        params += same
        near += abs(difference) <= TOLERANCE
        old += same_rounding(small, row.gflops)
        unexplained += NOT_EXPLAINED in why
        size = f"{row.height}" if row.height == row.width else f"{row.height} x {row.width}"
        print(
            f"| {row.model} | {size} | {counted.params:,} ({row.params}) | {gflops:.3f} | {row.gflops} "
            f"| {difference:+.1%} | {small:.3f} | {', '.join(filter(None, why))} |",
            flush=True,
        )
    print(
        f"\n{len(rows)} networks: {params} have the published parameters; {near} are within {TOLERANCE:.0%} of the "
        f"published FLOPs; extrapolated from 32 px, {old} have these to their rounding; {unexplained} are not "
        f"explained: {common.met(not unexplained)}"
    )
    return 0 if all([not unexplained, *map(as_info, PROFILED)]) else 1


def explanation(row: Row) -> str:
    """The way to count that has the published FLOPs."""
    return next((way for way, gflops in WAYS.items() if same_rounding(gflops(row), row.gflops)), NOT_EXPLAINED)


def of_parameters(row: Row) -> str:
    """Why the published parameters are others."""
    params = sum(each.numel() for each in network(row, classes=CONFIGURED)[1].parameters())
    return f"parameters of {CONFIGURED} classes" if same_rounding(params / 1e6, row.params) else NOT_EXPLAINED


def as_info(name: str) -> bool:
    """Prints the counts of Ultralytics' `model.info()`, unfused and fused, and ours; whether all are equal."""
    from ultralytics import YOLO

    with quiet():
        net: Any = YOLO(f"{name}.yaml").model
        unfused = net.info(imgsz=640)
        net.fuse(verbose=False)
        fused = net.info(imgsz=640)
    model: Any = build(ModelConfig(name=name, imgsz=640))
    ours, deployed = size_of(model.net), cost(model.deployed(), 640, 640)
    equal = (
        ours == tuple(unfused[:3])
        and deployed.params == fused[1]
        and f"{deployed.flops / 1e9:.3f}" == f"{fused[3]:.3f}"
    )
    print(f"{name}, model.info(): {unfused}, fused {fused}")
    print(f"{name}, compress profile: {ours}, fused {deployed.params}, {deployed.flops / 1e9}: {common.met(equal)}")
    return equal


if __name__ == "__main__":
    sys.exit(common.run(main))
