"""Compares ways to the same FLOPs: ours, torch-pruning as its examples use it, random channels, a smaller input.

    python scripts/benchmarks/pruning.py [--shares 0.5 0.3 0.15] [--seeds 3] [--images 8000] [--jobs 2] [--time]

Everything starts from the recipe's trained model, is fine-tuned with the same number of images, at a learning rate
that follows the FLOPs taken out of the network by one rule, and is judged on the large validation split. Every cell of
the table (way, share of the FLOPs, seed) runs in a process of its own with one thread and leaves one file in --out; the
same command goes on where it stopped, inside a cell too. Inputs come in multiples of the network's stride, so the
smaller input is taken at the size below the budget and at the one above, and its accuracy at the budget is read off the
straight line between them. With --time the networks of seed 0 then take turns in ONNX Runtime and in OpenVINO.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import numpy as np
from torch import nn

from compress import atomic, controls, data, lineage, models, targets
from compress.capabilities import Prunable, TorchModel, require
from compress.config import compose
from compress.errors import UserError
from compress.measurement.rows import flops_at
from compress.product import Product
from compress.stages import finetune, prune
from compress.stages.context import Context

RECIPE = "drone_nano"
SHARES = [0.5, 0.3, 0.15]
WORTH = 0.01  # a loss of torch-pruning's that counts
# Below this share of the FLOPs channels leave in steps of 8, since those of 16 reach 20 % at least, and ours goes by
# the knapsack, in three rounds.
DEEP = 0.25
RUNTIMES = ("onnxruntime", "openvino")
TURNS = 40  # of each network, when they are timed: 5 runs a turn

# What each way changes in the recipe. `unpruned` is tuned like the rest: what the others are compared with.
WAYS = {
    "unpruned": ["finetune.distillation=0"],
    "ours": [],
    "torch_pruning": ["finetune.distillation=0"],
    "random": ["prune.importance=random", "prune.allocation=global"],
    "smaller_input": ["finetune.distillation=0"],
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One entry of the table. `share` is of the FLOPs; of `smaller_input` it is that of the input taken."""

    way: str
    share: float
    seed: int
    imgsz: int | None = None
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.way}-{round(100 * self.share)}-{self.seed}"


def main() -> int:
    parser = common.parser(__doc__, seeds=3, images=8000, jobs=2)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the FLOPs to keep")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help=f"of {', '.join(WAYS)}, or those of --also")
    parser.add_argument("--also", action="append", default=[], metavar="NAME:KEY=VALUE,...", help="ours, but for these")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/pruning"))
    parser.add_argument("--time", action="store_true", help="time the networks too: wants a quiet machine")
    parser.add_argument("--cell", help="make this one cell here (JSON)")
    given = parser.parse_args()
    if given.cell is not None:
        make(Cell(**json.loads(given.cell)), given.images, given.out)
        return 0
    also = {name: tuple(keys.split(",")) for name, _, keys in (each.partition(":") for each in given.also)}
    if unknown := [way for way in given.ways if way not in WAYS and way not in also]:
        raise UserError("--ways", unknown[0], f"choose from {', '.join([*WAYS, *also])}")
    wanted = list(cells(given.ways, given.shares, given.seeds, also))
    with ThreadPoolExecutor(given.jobs) as pool:
        failed = [name for name in pool.map(functools.partial(in_own_process, given), wanted) if name]
    rows = [json.loads(_file(given.out, cell).read_text()) for cell in wanted if _file(given.out, cell).exists()]
    report(rows, given.shares)
    if given.time:
        timed([Cell(**{key: row[key] for key in Cell.__dataclass_fields__}) for row in rows], given)
    return 1 if failed else 0


def cells(ways: Sequence[str], shares: Sequence[float], seeds: int, also: dict[str, tuple[str, ...]]) -> Iterator[Cell]:
    """Seed by seed, so that a table of fewer seeds is whole first."""
    sizes = _inputs(shares) if "smaller_input" in ways else {}
    for seed in range(seeds):
        for way in ways:
            if way == "unpruned":
                yield Cell(way, 1.0, seed)
            elif way == "smaller_input":
                yield from (Cell(way, share, seed, imgsz) for imgsz, share in sizes.items())
            else:
                yield from (Cell(way, share, seed, None, also.get(way, ())) for share in shares)


def _inputs(shares: Sequence[float]) -> dict[int, float]:
    """{input side in pixels: share of the FLOPs}: for each budget the size within it and the next one above."""
    model = require(models.build(compose([f"recipe={RECIPE}"]).model), TorchModel, "recipe", RECIPE)
    full = flops_at(model, model.imgsz)
    below = [controls.input_within(model, round(share * full)) for share in shares]
    sizes = sorted({size for low in below for size in (low, low + model.stride)} - {model.imgsz})
    return {size: flops_at(model, size) / full for size in sizes}


def in_own_process(given: argparse.Namespace, cell: Cell) -> str | None:
    """Makes a cell that is not there yet; its name where that failed."""
    if _file(given.out, cell).exists():
        return None
    given.out.mkdir(parents=True, exist_ok=True)
    arguments = ["--images", str(given.images), "--out", str(given.out), "--cell", json.dumps(cell.__dict__)]
    try:
        common.in_own_process(__file__, arguments, given.out / f"{cell.name}.log")
    except RuntimeError as error:
        print(f"{cell.name}: FAILED, {error}", flush=True)
        return cell.name
    print(f"{cell.name}: done", flush=True)
    return None


def make(cell: Cell, images: int, out: Path) -> None:
    """One cell: prune, fine-tune, judge, write."""
    with _opened(cell, images, out) as (product, context):
        began, worked = time.time(), time.process_time()
        raw, context = pruned_by(cell, product, context)
        tuned, judged = finetune.run(raw, context).model, context.data
        row: Row = {**cell.__dict__, "images": images, "seconds": time.time() - began}
        row |= {"cpu_seconds": time.process_time() - worked, "flops": flops_at(tuned, tuned.imgsz)}
    split = judged.validation
    found = common.evaluate(tuned, split, tuned.classes)
    assert found.resampled is not None  # evaluate drew them
    row |= {"map": found.value, "map50": found.map50, "resampled": found.resampled.tolist()}
    atomic.write(_file(out, cell), json.dumps(row))


def timed(cells: Sequence[Cell], given: argparse.Namespace) -> None:
    """Prints the milliseconds of an image, at one thread, for the networks of seed 0 at the recipe's input size."""
    found: dict[str, tuple[Product, Context]] = {}
    for cell in cells:
        if cell.seed == 0 and cell.imgsz is None:
            with _opened(cell, given.images, given.out) as (product, context):
                found[cell.name] = pruned_by(cell, product, context)  # tuning does not change the time
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        for runtime in RUNTIMES:
            calls: dict[str, Callable[[], object]] = {}
            for name, (product, context) in found.items():
                model = product.model
                graph = targets.get(runtime).convert(model, Path(scratch, runtime, name), context.config.export)
                calls[name] = functools.partial(targets.load(graph, threads=1), model.example_input().numpy())
            for name, (took, _, text) in common.in_turns(calls, TURNS).items():
                print(f"{runtime:12} {name:20} {took.median:7.2f} ms {text}")


@contextmanager
def _opened(cell: Cell, images: int, out: Path) -> Iterator[tuple[Product, Context]]:
    """The recipe's trained model, and what stages need to do what the cell asks for; for as long as this is open."""
    ours = cell.way == "ours" or cell.way not in WAYS  # --also starts from ours
    fixed = [f"recipe={RECIPE}", "data.large_validation=true", "threads=1", f"finetune.images={images}"]
    fixed.append("finetune.learning_rate=null")  # the recipe's own is for half the FLOPs
    fixed += [f"seed={cell.seed}", f"budget.flops={100 * cell.share:g}%"]
    if cell.share < DEEP:
        fixed.append("prune.round_to=8")
        if ours:
            between = images // 5  # as many images in all
            fixed += ["prune=knapsack", "prune.rounds=3", f"prune.round_images={between}"]
            fixed.append(f"finetune.images={images - 2 * between}")
    recipe = common.Recipe.load(*fixed, *WAYS["ours" if ours else cell.way], *cell.overrides)
    with recipe.context(out / "cache") as context:
        yield Product(recipe.model), context


def pruned_by(cell: Cell, product: Product, context: Context) -> tuple[Product, Context]:
    """The product to fine-tune, and with what."""
    model = require(product.model, Prunable, "recipe", RECIPE)
    if cell.imgsz is not None:
        smaller = replace(context, data=data.resized(context.data, cell.imgsz))
        return Product(model.with_imgsz(cell.imgsz)), smaller
    if cell.way == "unpruned":
        return product, context
    if cell.way == "torch_pruning":
        reference = lineage.before_pruning(product, context.config, context.folder)
        pruned = model.with_net(by_torch_pruning(model, cell.share * reference.flops / 2))
        return Product(pruned, reference), context
    return prune.run(product, context), context


def by_torch_pruning(model: Prunable, budget_macs: float) -> nn.Module:
    """What torch-pruning's own examples do: one ratio for every layer, channels ranked by the L2 norm of their group.

    The ratio is searched, to three digits, so that the FLOPs come nearest to the budget: all layers lose a channel at
    the same ratios, so its steps are coarse. Layers kept and blocks rewritten are ours, since its YOLO example reaches
    neither these networks nor 15 % of their FLOPs.
    """
    import torch_pruning as tp

    count: Callable[[nn.Module], int] = prune.counter(model)

    def at(thousandths: int) -> nn.Module:
        net, protected = model.prunable()
        modules = dict(net.named_modules())
        pruner = tp.pruner.BasePruner(
            net, model.example_input(), importance=tp.importance.GroupMagnitudeImportance(p=2), global_pruning=False,
            pruning_ratio=thousandths / 1000, ignored_layers=[modules[name] for name in protected],
        )  # fmt: skip
        pruner.step()
        return net

    low, high = 0, 999  # `low` is over the budget, `high` is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(at(middle)) <= budget_macs else (middle, high)
    return min((at(low), at(high)), key=lambda net: abs(count(net) - budget_macs))


def _file(out: Path, cell: Cell) -> Path:
    return out / f"{cell.name}.json"


def report(rows: list[Row], shares: Sequence[float]) -> None:
    """The table, and whether each goal was met."""
    by_way: dict[str, list[Row]] = {}
    for row in rows:
        by_way.setdefault(row["way"], []).append(row)
    print(f"{'way':16} {'FLOPs':>6} {'share':>7} {'mAP50-95':>9} {'spread over seeds':>20} {'seeds':>5} {'minutes':>8}")
    for way, cells_of in by_way.items():
        for share in sorted({row["share"] for row in cells_of}, reverse=True):
            same = [row for row in cells_of if row["share"] == share]
            values = [row["map"] for row in same]
            print(
                f"{way:16} {same[0]['flops'] / 1e9:6.3f} {share:7.1%} {statistics.mean(values):9.4f} "
                f"{min(values):.4f} to {max(values):.4f} {len(values):5} "
                f"{statistics.mean(row['seconds'] for row in same) / 60:8.1f}"
            )
    goals(by_way, shares)


def goals(by_way: dict[str, list[Row]], shares: Sequence[float]) -> None:
    """Differences paired over images, averaged over seeds, with 95 % intervals."""
    unpruned = _resampled(by_way.get("unpruned", []), 1.0)
    for share in shares:
        ours = _resampled(by_way.get("ours", []), share)
        if ours is None:
            continue
        theirs = _resampled(by_way.get("torch_pruning", []), share)
        if unpruned is not None and theirs is not None:
            lost = unpruned[0] - theirs[0]
            print(f"{share:.0%}: torch-pruning loses {lost:.4f}; ours is {_said(ours, theirs)}", end="")
            print(f", {(ours[0] - theirs[0]) / lost:.0%} of it" if lost > WORTH else "")
        for other in ("random", "unpruned"):
            base = unpruned if other == "unpruned" else _resampled(by_way.get(other, []), share)
            if base is not None:
                print(f"{share:.0%}: ours is {_said(ours, base)} against {other}")
        smaller = _interpolated(by_way.get("smaller_input", []), share)
        if smaller is not None:
            print(f"{share:.0%}: ours is {_said(ours, smaller)} against a smaller input of the same FLOPs")


def _said(ours: np.ndarray, theirs: np.ndarray) -> str:
    low, high = np.percentile((ours - theirs)[1:], [2.5, 97.5])
    return f"{ours[0] - theirs[0]:+.4f} ({low:+.4f} to {high:+.4f})"


def _resampled(rows: list[Row], share: float) -> np.ndarray | None:
    """[mean over seeds, then that of every resample of the images]."""
    same = [[row["map"], *row["resampled"]] for row in rows if row["share"] == share]
    return np.mean(same, axis=0) if same else None


def _interpolated(rows: list[Row], share: float) -> np.ndarray | None:
    """The same at `share`, on the straight line between the inputs below and above it."""
    known = sorted({row["share"] for row in rows})
    below, above = [k for k in known if k <= share], [k for k in known if k >= share]
    if not below or not above:
        return None
    low, high = _resampled(rows, below[-1]), _resampled(rows, above[0])
    weight = 0.0 if below[-1] == above[0] else (share - below[-1]) / (above[0] - below[-1])
    return None if low is None or high is None else low + weight * (high - low)


if __name__ == "__main__":
    sys.exit(common.run(main))
