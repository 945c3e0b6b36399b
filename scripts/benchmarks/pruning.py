"""Compares ways to reach the same FLOPs: ours, torch-pruning as in its examples, random channels, a smaller input.

    python scripts/benchmarks/pruning.py [--fractions 0.5 0.3 0.15] [--seeds 3] [--images 8000] [--jobs 2] [--time]

All start from the recipe's trained model, are fine-tuned with the same number of images and the same rule for the
learning rate, and are evaluated on the large validation split. Each cell of the table (way, fraction of the FLOPs,
seed) runs in its own process with one thread and writes one file to --out. The same command continues an interrupted
benchmark, even within a cell. Input sizes are multiples of the network's stride, so the smaller input is evaluated at
the sizes just below and above the budget, and its accuracy is interpolated linearly. With --time the networks of seed 0
are also timed in alternation, in ONNX Runtime and OpenVINO.
"""

from __future__ import annotations

import argparse
import copy
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
FRACTIONS = [0.5, 0.3, 0.15]
WORTH = 0.01  # smallest mAP loss of torch-pruning for which the recovered fraction is stated
# Below this fraction of the FLOPs, channels are removed in steps of 8, because steps of 16 reach no less than 20 %, and
# ours uses the knapsack allocation in three rounds.
DEEP = 0.25
RUNTIMES = ("onnxruntime", "openvino")
TURNS = 40  # per network with --time: 5 runs a turn

# Overrides of the recipe. `unpruned` is fine-tuned like the others and serves as the reference.
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
    """One entry of the table. `fraction`: fraction of the FLOPs; of `smaller_input` that of its actual input size."""

    way: str
    fraction: float
    seed: int
    imgsz: int | None = None
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.way}-{round(100 * self.fraction)}-{self.seed}"


def main() -> int:
    parser = common.parser(__doc__, seeds=3, images=8000, jobs=2)
    parser.add_argument("--fractions", type=float, nargs="+", default=FRACTIONS, help="fractions of the FLOPs to keep")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help=f"{', '.join(WAYS)}, or names from --also")
    parser.add_argument(
        "--also", action="append", default=[], metavar="NAME:KEY=VALUE,...", help="add a way: ours with overrides"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/pruning"), help="folder of the cells")
    parser.add_argument("--time", action="store_true", help="also time the networks; needs an idle machine")
    parser.add_argument("--cell", help="compute this cell in this process (JSON)")
    options = parser.parse_args()
    if options.cell is not None:
        make(Cell(**json.loads(options.cell)), options.images, options.out)
        return 0
    also = {name: tuple(keys.split(",")) for name, _, keys in (text.partition(":") for text in options.also)}
    if unknown := [way for way in options.ways if way not in WAYS and way not in also]:
        raise UserError("--ways", unknown[0], f"choose from {', '.join([*WAYS, *also])}")
    table = list(cells(options.ways, options.fractions, options.seeds, also))
    with ThreadPoolExecutor(options.jobs) as pool:
        failed = [name for name in pool.map(functools.partial(in_own_process, options), table) if name]
    rows = [json.loads(_file(options.out, cell).read_text()) for cell in table if _file(options.out, cell).exists()]
    report(rows, options.fractions)
    if options.time:
        timed([Cell(**{key: row[key] for key in Cell.__dataclass_fields__}) for row in rows], options)
    return 1 if failed else 0


def cells(
    ways: Sequence[str], fractions: Sequence[float], seeds: int, also: dict[str, tuple[str, ...]]
) -> Iterator[Cell]:
    """Yields the cells seed by seed, so that the table is complete for the first seeds early."""
    sizes = _inputs(fractions) if "smaller_input" in ways else {}
    for seed in range(seeds):
        for way in ways:
            if way == "unpruned":
                yield Cell(way, 1.0, seed)
            elif way == "smaller_input":
                yield from (Cell(way, fraction, seed, imgsz) for imgsz, fraction in sizes.items())
            else:
                yield from (Cell(way, fraction, seed, None, also.get(way, ())) for fraction in fractions)


def _inputs(fractions: Sequence[float]) -> dict[int, float]:
    """{input side in pixels: fraction of the FLOPs}: for each budget the largest size within it and the next above."""
    model = require(models.build(compose([f"recipe={RECIPE}"]).model), TorchModel, "recipe", RECIPE)
    full = flops_at(model, model.imgsz)
    below = [controls.input_within(model, round(fraction * full)) for fraction in fractions]
    sizes = sorted({size for low in below for size in (low, low + model.stride)} - {model.imgsz})
    return {size: flops_at(model, size) / full for size in sizes}


def in_own_process(options: argparse.Namespace, cell: Cell) -> str | None:
    """Computes a cell whose file is absent. Returns its name if that fails."""
    if _file(options.out, cell).exists():
        return None
    options.out.mkdir(parents=True, exist_ok=True)
    arguments = ["--images", str(options.images), "--out", str(options.out), "--cell", json.dumps(cell.__dict__)]
    try:
        common.in_own_process(__file__, arguments, options.out / f"{cell.name}.log")
    except RuntimeError as error:
        print(f"{cell.name}: FAILED, {error}", flush=True)
        return cell.name
    print(f"{cell.name}: done", flush=True)
    return None


def make(cell: Cell, images: int, out: Path) -> None:
    """Prunes, fine-tunes and evaluates the network of one cell, and writes its row."""
    with _opened(cell, images, out) as (product, context):
        start, cpu_start = time.time(), time.process_time()
        pruned, context = pruned_by(cell, product, context)
        tuned, dataset = finetune.run(pruned, context).model, context.data
        row: Row = {**cell.__dict__, "images": images, "seconds": time.time() - start}
        row |= {"cpu_seconds": time.process_time() - cpu_start, "flops": flops_at(tuned, tuned.imgsz)}
    accuracy = common.evaluate(tuned, dataset.validation, tuned.classes)
    assert accuracy.resampled is not None  # evaluate resamples
    row |= {"map": accuracy.value, "map50": accuracy.map50, "resampled": accuracy.resampled.tolist()}
    atomic.write(_file(out, cell), json.dumps(row))


def timed(cells: Sequence[Cell], options: argparse.Namespace) -> None:
    """Prints the latency with one thread of the pruned networks of seed 0, at the recipe's input size."""
    networks: dict[str, tuple[Product, Context]] = {}
    for cell in cells:
        if cell.seed == 0 and cell.imgsz is None:
            with _opened(cell, options.images, options.out) as (product, context):
                networks[cell.name] = pruned_by(cell, product, context)  # fine-tuning does not change the time
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        for runtime in RUNTIMES:
            calls: dict[str, Callable[[], object]] = {}
            for name, (product, context) in networks.items():
                model = product.model
                graph = targets.get(runtime).convert(model, Path(scratch, runtime, name), context.config.export)
                calls[name] = functools.partial(targets.load(graph, threads=1), model.example_input().numpy())
            for name, (latency, _, text) in common.in_turns(calls, TURNS).items():
                print(f"{runtime:12} {name:20} {latency.median:7.2f} ms {text}")


@contextmanager
def _opened(cell: Cell, images: int, out: Path) -> Iterator[tuple[Product, Context]]:
    """Yields the recipe's trained model and the context for the cell's stages."""
    ours = cell.way == "ours" or cell.way not in WAYS  # the ways of --also are based on ours
    fixed = [f"recipe={RECIPE}", "data.large_validation=true", "threads=1", f"finetune.images={images}"]
    fixed.append("finetune.learning_rate=null")  # the recipe's value is for half the FLOPs
    fixed += [f"seed={cell.seed}", f"budget.flops={100 * cell.fraction:g}%"]
    if cell.fraction < DEEP:
        fixed.append("prune.round_to=8")
        if ours:
            between = images // 5  # the total number of images is the same
            fixed += ["prune=knapsack", "prune.rounds=3", f"prune.round_images={between}"]
            fixed.append(f"finetune.images={images - 2 * between}")
    recipe = common.Recipe.load(*fixed, *WAYS["ours" if ours else cell.way], *cell.overrides)
    with recipe.context(out / "cache") as context:
        yield Product(recipe.model), context


def pruned_by(cell: Cell, product: Product, context: Context) -> tuple[Product, Context]:
    """The pruned product of a cell, and the context to fine-tune it with."""
    model = require(product.model, Prunable, "recipe", RECIPE)
    if cell.imgsz is not None:
        smaller = replace(context, data=data.resized(context.data, cell.imgsz))
        return Product(model.with_imgsz(cell.imgsz)), smaller
    if cell.way == "unpruned":
        return product, context
    if cell.way == "torch_pruning":
        reference = lineage.reference_for_pruning(product, context.config, context.folder)
        pruned = model.with_net(by_torch_pruning(model, cell.fraction * reference.flops / 2))
        return Product(pruned, reference), context
    return prune.run(product, context), context


def by_torch_pruning(
    model: Prunable, budget_macs: float, prepare: Callable[[nn.Module], object] | None = None
) -> nn.Module:
    """Prunes as in torch-pruning's examples: one ratio for every layer, channels ranked by the L2 norm of their group,
    or, if `prepare` computes gradients of the network, one ratio and one Taylor ranking for all channels.

    The ratio is bisected to three digits for the FLOPs nearest to the budget. It is coarse, because many layers lose a
    channel at the same ratio. Protected layers and rewritten blocks are those of this package, because torch-pruning's
    YOLO example supports neither these networks nor 15 % of their FLOPs.
    """
    import torch_pruning as tp

    count: Callable[[nn.Module], int] = prune.counter(model)
    unpruned, protected = model.prunable()
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    if prepare is not None:
        prepare(unpruned)
        importance = tp.importance.GroupTaylorImportance()

    def at(thousandths: int) -> nn.Module:
        net = copy.deepcopy(unpruned)
        for parameter, other in zip(net.parameters(), unpruned.parameters(), strict=True):
            parameter.grad = other.grad  # which is not copied
        modules = dict(net.named_modules())
        pruner = tp.pruner.BasePruner(
            net, model.example_input(), importance=importance, global_pruning=prepare is not None,
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


def report(rows: list[Row], fractions: Sequence[float]) -> None:
    """Prints the table and the comparisons."""
    by_way: dict[str, list[Row]] = {}
    for row in rows:
        by_way.setdefault(row["way"], []).append(row)
    print(
        f"{'way':16} {'FLOPs':>6} {'fraction':>7} {'mAP50-95':>9} {'spread over seeds':>20} {'seeds':>5} {'minutes':>8}"
    )
    for way, cells_of in by_way.items():
        for fraction in sorted({row["fraction"] for row in cells_of}, reverse=True):
            same = [row for row in cells_of if row["fraction"] == fraction]
            values = [row["map"] for row in same]
            print(
                f"{way:16} {same[0]['flops'] / 1e9:6.3f} {fraction:7.1%} {statistics.mean(values):9.4f} "
                f"{min(values):.4f} to {max(values):.4f} {len(values):5} "
                f"{statistics.mean(row['seconds'] for row in same) / 60:8.1f}"
            )
    goals(by_way, fractions)


def goals(by_way: dict[str, list[Row]], fractions: Sequence[float]) -> None:
    """Prints differences of mAP averaged over seeds, with 95 % bootstrap intervals paired over images."""
    unpruned = _resampled(by_way.get("unpruned", []), 1.0)
    for fraction in fractions:
        ours = _resampled(by_way.get("ours", []), fraction)
        if ours is None:
            continue
        peer = _resampled(by_way.get("torch_pruning", []), fraction)
        if unpruned is not None and peer is not None:
            loss = unpruned[0] - peer[0]
            print(f"{fraction:.0%}: torch-pruning loses {loss:.4f}; ours is {_difference(ours, peer)}", end="")
            print(f", {(ours[0] - peer[0]) / loss:.0%} of the loss" if loss > WORTH else "")
        for other in ("random", "unpruned"):
            base = unpruned if other == "unpruned" else _resampled(by_way.get(other, []), fraction)
            if base is not None:
                print(f"{fraction:.0%}: ours is {_difference(ours, base)} against {other}")
        smaller = _interpolated(by_way.get("smaller_input", []), fraction)
        if smaller is not None:
            print(f"{fraction:.0%}: ours is {_difference(ours, smaller)} against a smaller input of the same FLOPs")


def _difference(ours: np.ndarray, other: np.ndarray) -> str:
    low, high = np.percentile((ours - other)[1:], [2.5, 97.5])
    return f"{ours[0] - other[0]:+.4f} ({low:+.4f} to {high:+.4f})"


def _resampled(rows: list[Row], fraction: float) -> np.ndarray | None:
    """Mean mAP over seeds, then the same for every bootstrap resample: shape (1 + resamples,)."""
    same = [[row["map"], *row["resampled"]] for row in rows if row["fraction"] == fraction]
    return np.mean(same, axis=0) if same else None


def _interpolated(rows: list[Row], fraction: float) -> np.ndarray | None:
    """As `_resampled`, interpolated linearly between the input sizes just below and above `fraction`."""
    fractions = sorted({row["fraction"] for row in rows})
    below, above = (
        [value for value in fractions if value <= fraction],
        [value for value in fractions if value >= fraction],
    )
    if not below or not above:
        return None
    low, high = _resampled(rows, below[-1]), _resampled(rows, above[0])
    weight = 0.0 if below[-1] == above[0] else (fraction - below[-1]) / (above[0] - below[-1])
    return None if low is None or high is None else low + weight * (high - low)


if __name__ == "__main__":
    sys.exit(common.run(main))
