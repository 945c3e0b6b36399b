"""ResNet-20 on Fashion-MNIST at half and a quarter of its FLOPs: ours beside torch-pruning, FP32 and INT8.

    python scripts/benchmarks/fashion_mnist.py [--fractions 0.5 0.25] [--seeds 3] [--images 40000] [--ways ours ...]

The first call trains the network of `recipe=fashion_mnist` and keeps it in --out. All ways start from it, and are
fine-tuned with the same images, teacher, batch, optimizer and learning rate; they differ in the channels that they
remove. All keep a multiple of 4 channels in each layer. INT8 graphs are those of the first scheme of the stage
`quantize`, without its search, with the same calibration images. Accuracy is top-1 on the 10,000 images of the
published test split. The same command continues an interrupted benchmark.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import numpy as np
from torch import nn

from compress import atomic, checkpoint, lineage, targets
from compress.capabilities import Checkpointable, Prunable, Trainable, require
from compress.data import batches
from compress.measurement.rows import flops_at
from compress.product import Precision, Product
from compress.pruning.gradients import accumulate_gradients
from compress.stages import finetune, prune, quantize, train
from compress.stages.context import Context

RECIPE = "fashion_mnist"
FRACTIONS = [0.5, 0.25]
ROUND_TO = 4  # channels of every layer are a multiple of this, with all ways
SCHEME = "quantize.search=false"  # INT8 by the first scheme
OURS = "ours"

Row = dict[str, Any]


def main() -> int:
    parser = common.parser(__doc__, seeds=3, images=40000, threads=1)
    parser.add_argument("--fractions", type=float, nargs="+", default=FRACTIONS, help="fractions of the FLOPs to keep")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/fashion_mnist"), help="folder of results")
    options = parser.parse_args()
    rows = [baseline(options)]
    for seed, fraction, way in itertools.product(range(options.seeds), options.fractions, options.ways):
        rows.append(cell(options, way, fraction, seed))
    report(rows)
    return 0


def baseline(options: argparse.Namespace) -> Row:
    """Trains the network and evaluates it, unless `--out` has its row."""
    file = options.out / "baseline.json"
    if not file.exists():
        recipe = common.Recipe.load(f"recipe={RECIPE}", f"threads={options.threads}", SCHEME)
        with recipe.context(options.out / "cache") as context:
            row: Row = {"way": "unpruned", "fraction": 1.0, "seed": 0, "images": recipe.config.train.images}
            product = measured(row, context, lambda: train.run(Product(recipe.model), context))
            checkpoint.save(require(product.model, Checkpointable, "recipe", RECIPE), options.out / "baseline")
        atomic.write(file, json.dumps(row))
    return Row(json.loads(file.read_text()))


def cell(options: argparse.Namespace, way: str, fraction: float, seed: int) -> Row:
    """Prunes, fine-tunes, quantizes and evaluates one network, unless `--out` has its row."""
    file = options.out / f"{way}-{round(100 * fraction)}-{seed}.json"
    if not file.exists():
        recipe = common.Recipe.load(
            f"recipe={RECIPE}", "model=checkpoint", f"model.path={options.out / 'baseline'}", "stages=[prune,finetune]",
            SCHEME, f"threads={options.threads}", f"seed={seed}", f"budget.flops={100 * fraction:g}%",
            f"prune.round_to={ROUND_TO}", f"finetune.images={options.images}", "finetune.distillation=1",
        )  # fmt: skip
        with recipe.context(options.out / "cache") as context:
            row: Row = {"way": way, "fraction": fraction, "seed": seed, "images": options.images}
            measured(row, context, lambda: finetune.run(WAYS[way](Product(recipe.model), context, fraction), context))
        atomic.write(file, json.dumps(row))
        print(f"{file.stem}: {row['torch']:.4f}, {row['cpu_seconds']:.0f} s", flush=True)
    return Row(json.loads(file.read_text()))


def measured(row: Row, context: Context, make: Callable[[], Product]) -> Product:
    """Makes a product, and adds time, FLOPs and top-1 of its network and of its INT8 graphs to `row`."""
    start, cpu_start = time.time(), time.process_time()
    product = make()
    row |= {"seconds": time.time() - start, "cpu_seconds": time.process_time() - cpu_start}
    model, validation = product.model, context.data.validation
    row["flops"] = flops_at(model, model.imgsz)
    accuracies = {"torch": common.evaluate(model, validation, context.data.classes)}
    for graph in quantize.run(product, context).graphs:
        if graph.precision is Precision.int8:  # the FP32 graphs compute what torch does
            predict = targets.load(graph, context.config.threads)
            accuracies[graph.target] = common.evaluate(model, validation, context.data.classes, predict)
    for name, accuracy in accuracies.items():
        assert accuracy.resampled is not None  # evaluate resamples
        row |= {name: accuracy.value, f"{name}_resampled": accuracy.resampled.tolist()}
    return product


def ours(product: Product, context: Context, fraction: float) -> Product:
    """As the recipe sets it."""
    return prune.run(product, context)


def with_taylor(product: Product, context: Context, fraction: float) -> Product:
    """With the importance that is the default of other recipes."""
    config = replace(context.config, prune=replace(context.config.prune, importance="taylor"))
    return prune.run(product, replace(context, config=config))


def by_torch_pruning(product: Product, context: Context, fraction: float) -> Product:
    """torch-pruning's Taylor importance, one ranking of all channels, gradients on the images that ours uses. The ratio
    is bisected to three digits for the FLOPs nearest to the budget."""
    import torch_pruning as tp

    model, config = require(product.model, Prunable, "recipe", RECIPE), context.config
    count: Callable[[nn.Module], int] = prune.counter(model)
    reference = lineage.reference_for_pruning(product, config, context.folder)
    source, _ = model.prunable()
    size = config.finetune.batch
    stream = batches(context.data.train, batch=size, seed=config.seed, epoch=0, augment=False)
    images = itertools.islice(stream, max(1, config.prune.images // size))
    accumulate_gradients(source, require(model, Trainable, "recipe", RECIPE).loss, images)

    def at(thousandths: int) -> nn.Module:
        net, protected = model.prunable()
        for parameter, other in zip(net.parameters(), source.parameters(), strict=True):
            parameter.grad = other.grad
        modules = dict(net.named_modules())
        pruner = tp.pruner.BasePruner(
            net, model.example_input(), importance=tp.importance.GroupTaylorImportance(), global_pruning=True,
            pruning_ratio=thousandths / 1000, max_pruning_ratio=config.prune.max_ratio, round_to=ROUND_TO,
            ignored_layers=[modules[name] for name in protected],
        )  # fmt: skip
        pruner.step()
        return net

    budget_macs = fraction * reference.flops / 2
    low, high = 0, 999  # `low` is over the budget, `high` is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(at(middle)) <= budget_macs else (middle, high)
    nearest = min((at(low), at(high)), key=lambda net: abs(count(net) - budget_macs))
    return Product(model.with_net(nearest.requires_grad_()), reference)


WAYS = {OURS: ours, "taylor": with_taylor, "torch_pruning_taylor": by_torch_pruning}


def report(rows: Sequence[Row]) -> None:
    """Prints the table, and the differences between ours and the other ways with intervals paired over images."""
    names = [name for name in rows[0] if f"{name}_resampled" in rows[0]]
    groups: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["fraction"], row["way"]), []).append(row)
    for (fraction, way), same in groups.items():
        flops = statistics.mean(row["flops"] for row in same) / rows[0]["flops"]
        seconds = statistics.mean(row["cpu_seconds"] for row in same)
        images = same[0]["images"]
        print(f"\n{way}, goal {fraction:.0%}: {flops:.1%} of the FLOPs, {images} images, {seconds:.0f} CPU s")
        for name in names:
            values, (low, high) = [row[name] for row in same], np.percentile(_mean(same, name)[1:], [2.5, 97.5])
            each = ", ".join(f"{value:.4f}" for value in values)
            print(f"  {name:12} {statistics.mean(values):.4f} [{low:.4f}, {high:.4f}]  ({each})")
            if way != OURS and (fraction, OURS) in groups:
                difference = _mean(groups[fraction, OURS], name) - _mean(same, name)
                low, high = np.percentile(difference[1:], [2.5, 97.5])
                print(f"  {'':12} ours is {difference[0]:+.4f} [{low:+.4f}, {high:+.4f}]")


def _mean(rows: Sequence[Row], name: str) -> np.ndarray:
    """Mean top-1 over seeds, then the same for every bootstrap resample: shape (1 + resamples,)."""
    return np.mean([[row[name], *row[f"{name}_resampled"]] for row in rows], axis=0)


if __name__ == "__main__":
    sys.exit(common.run(main))
