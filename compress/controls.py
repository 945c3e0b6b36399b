"""Controls: simpler ways to the same FLOPs, fine-tuned on as many images, that pruning should outperform."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace

from compress.capabilities import Model, TorchModel, require
from compress.config import Objective, PruneConfig
from compress.data import DataSet, resized
from compress.errors import UserError
from compress.measurement.rows import flops_at
from compress.product import Product, Reference
from compress.stages import finetune, prune
from compress.stages.context import Context


@dataclass(frozen=True)
class Control:
    """A fine-tuned model and the data to evaluate it on: the same images at its own input size."""

    model: Model
    data: DataSet


def random(reference: Reference, flops: int, context: Context) -> Control:
    """Removes random channels until at most `flops` remain, then fine-tunes as the recipe does."""
    recipe, budget = context.config.prune, replace(context.config.budget, flops=str(flops))
    pruning = replace(recipe, ratio=None, importance="random", allocation="global", objective=Objective.flops, rounds=1)
    folder = context.folder / "controls" / "random"
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(context.config, prune=pruning, budget=budget)
    context = _with_equal_images(replace(context, config=config, folder=folder), recipe).with_prefix("controls/random")
    product = Product(_model(reference), reference)
    return Control(finetune.run(prune.run(product, context), context).model, context.data)


def smaller_input(reference: Reference, flops: int, context: Context) -> Control:
    """The unpruned network at the largest input size within `flops`, which needs none of this package. It is fine-tuned
    without a teacher, since the only more accurate network takes larger images. Raises UserError if no input size is
    small enough, or if there are no labels."""
    if not context.config.data.labels:
        raise UserError("controls", True, "without labels, only a teacher of the same input size can tune a model")
    model = _model(reference)
    imgsz = input_within(model, flops)
    config = replace(context.config, finetune=replace(context.config.finetune, distillation=0.0, teacher=None))
    context = _with_equal_images(replace(context, config=config, data=resized(context.data, imgsz)), config.prune)
    context = context.with_prefix("controls/smaller_input")
    return Control(finetune.run(Product(model.with_imgsz(imgsz)), context).model, context.data)


def _model(reference: Reference) -> TorchModel:
    assert reference.model is not None  # controls need a run that prunes
    return require(reference.model, TorchModel, "controls", True)


def _with_equal_images(context: Context, pruned: PruneConfig) -> Context:
    """Extends fine-tuning by the images that a model pruned with this config is tuned on between its rounds."""
    tuning = context.config.finetune
    tuning = replace(tuning, images=tuning.images + (pruned.rounds - 1) * pruned.round_images)
    return replace(context, config=replace(context.config, finetune=tuning))


def input_within(model: Model, flops: int) -> int:
    """The largest input side in pixels at which the deployed form of `model` costs at most `flops`. Raises UserError if
    no input size is small enough."""
    sizes = range(model.stride, model.imgsz + 1, model.stride)
    fitting = bisect.bisect_right(sizes, flops, key=lambda imgsz: flops_at(model, imgsz))
    if fitting == 0:
        raise UserError("controls", True, f"no input of {type(model).__name__} meets the budget: set controls=false")
    return sizes[fitting - 1]


CONTROLS: dict[str, Callable[[Reference, int, Context], Control]] = {"random": random, "smaller_input": smaller_input}
