"""Compares ways to prune drone_nano without any training: accuracy on the validation split, and CPU time.

    python scripts/benchmarks/no_training.py [--fractions 0.75 0.5 0.3] [--images 300] [--ways taylor knapsack ...]

Each network is pruned to the same fraction of the FLOPs and evaluated three times: as it is, with the statistics of its
BatchNorm layers estimated again on the images, and with its layers reconstructed on them (stage `reconstruct`).
`taylor` and `hessian` use the gradients of the loss on 384 labelled images; all other ways use no labels.
With --finetune N the pruned and the reconstructed network are also fine-tuned with N images, as the recipe does, but
with the learning rate of the rule for all FLOPs.
torch-pruning, as in its examples, removes one fraction of all layers by group norm; with Taylor scores it ranks all
channels of the network. Rows are written to --out: the same command continues an interrupted benchmark.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch
from pruning import by_torch_pruning
from torch import nn
from torch.optim.swa_utils import update_bn

from compress import atomic, data
from compress.capabilities import LossScheduled, Prunable, Trainable, require
from compress.data import batches
from compress.product import Product
from compress.pruning.gradients import accumulate_gradients
from compress.stages import finetune, prune, reconstruct
from compress.stages.context import Context

RECIPE = "drone_nano"
FRACTIONS = [0.75, 0.5, 0.3]
BATCH = 16

# Overrides of each way to select channels.
WAYS = {
    "taylor": ["prune=taylor"],
    "knapsack": ["prune=knapsack"],
    "hessian_knapsack": ["prune=knapsack", "prune.importance=hessian"],
    "global_l2": ["prune=global_l2"],
    "uniform_l2": ["prune=uniform_l2"],
    "l2_knapsack": ["prune=knapsack", "prune.importance=group_l2"],
    "torch_pruning": [],
    "torch_pruning_taylor": [],
}
WITHOUT_RECORD = ("torch_pruning", "torch_pruning_taylor")  # of the channels that were kept: not reconstructed

TUNED = ("tuned", "solved, tuned")  # with --finetune

Row = dict[str, Any]


def main() -> int:
    parser = common.parser(__doc__, images=300, threads=2, validation=1000, finetune=0)
    parser.add_argument("--fractions", type=float, nargs="+", default=FRACTIONS, help="fractions of the FLOPs to keep")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/no_training"), help="folder of the rows")
    parser.add_argument("--overrides", nargs="+", default=[], help="of the recipe, such as data.root=FOLDER")
    options = parser.parse_args()
    rows = [measured(way, fraction, options) for fraction in options.fractions for way in options.ways]
    names = ["pruned", "bn", "reconstructed", "seconds", *(TUNED if options.finetune else ())]
    print(f"{'fraction':8} {'way':22}" + "".join(f" {name:>13}" for name in names))
    for row in rows:
        values = "".join(f" {row[name]:13.4f}" if name in row else f" {'':13}" for name in names)
        print(f"{row['fraction']:8.0%} {row['way']:22}{values}")
    return 0


def measured(way: str, fraction: float, options: argparse.Namespace) -> Row:
    """mAP50-95 of the networks of a way, and the CPU seconds of the reconstruction."""
    path = options.out / f"{way}-{round(100 * fraction)}-{options.images}-{options.finetune}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    overrides = [f"recipe={RECIPE}", "stages=[prune,reconstruct]", f"budget.flops={100 * fraction:g}%"]
    overrides += [f"threads={options.threads}", f"data.validation_images={options.validation}"]
    overrides += [f"reconstruct.images={options.images}", *WAYS[way], *options.overrides]
    overrides += [f"finetune.images={options.finetune or 1}", "finetune.learning_rate=null"]
    recipe = common.Recipe.load(*overrides)
    unpruned = require(recipe.model, Prunable, "recipe", RECIPE)
    row: Row = {"way": way, "fraction": fraction}
    with recipe.context(options.out / "cache") as context:
        if way in WITHOUT_RECORD:
            macs = fraction * prune.counter(unpruned)(unpruned.net)
            gradients = partial(_gradients, recipe=recipe) if way == "torch_pruning_taylor" else None
            model = unpruned.with_net(by_torch_pruning(unpruned, macs, gradients).eval())
            networks = {"pruned": model}
        else:
            product = prune.run(Product(unpruned), context)
            model = require(product.model, Prunable, "recipe", RECIPE)
            context = replace(context, cache=replace(context.cache, enabled=False))  # to time it
            start = time.process_time()
            solved = require(reconstruct.run(product, context).model, Prunable, "recipe", RECIPE)
            row["seconds"] = time.process_time() - start
            networks = {"pruned": model, "reconstructed": solved}
            if options.finetune:
                for name, network in zip(TUNED, (model, solved), strict=True):
                    tuned = finetune.run(replace(product, model=copied(network)), context)
                    networks[name] = require(tuned.model, Prunable, "recipe", RECIPE)
        networks["bn"] = model.with_net(reestimated(model.net, context))
        for name, network in networks.items():
            row[name] = common.evaluate(network, recipe.data.validation, model.classes).value
    atomic.write(path, json.dumps(row))
    return row


def _gradients(net: nn.Module, recipe: common.Recipe) -> None:
    """Accumulates the gradients of the loss on the labelled images that `prune` would use."""
    model = require(recipe.model, Trainable, "recipe", RECIPE)
    stream = batches(recipe.data.train, batch=BATCH, seed=recipe.config.seed, epoch=0, augment=False)
    if isinstance(model, LossScheduled):
        model.schedule_loss(net, 1.0)
    accumulate_gradients(net, model.loss, itertools.islice(stream, recipe.config.prune.images // BATCH))
    for parameter in net.parameters():  # torch-pruning needs one of each, also of layers that are not trained
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def copied(model: Prunable) -> Prunable:
    """A model with a copy of the network, which fine-tuning changes in place."""
    return model.with_net(copy.deepcopy(model.net))


def reestimated(net: nn.Module, context: Context) -> nn.Module:
    """A copy whose BatchNorm layers have the statistics of the images that the reconstruction uses."""
    net = copy.deepcopy(net)
    drawn = reconstruct.drawn(context.data.train, context.config.reconstruct.images, context.config.seed)
    update_bn((torch.from_numpy(images) for images in data.images(drawn, batch=BATCH)), net)
    return net.eval()


if __name__ == "__main__":
    sys.exit(common.run(main))
