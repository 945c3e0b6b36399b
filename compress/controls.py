"""Controls: the same FLOPs by plainer means, tuned with as many images. Does the pruning earn its place?

`random` takes channels out by lot, everything else as in the recipe. `smaller_input` leaves the network whole and gives
it smaller images, which is what anybody can do without this package.
"""

from __future__ import annotations

import logging
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

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Control:
    """A tuned model and the data it is to be judged on: the same images, at its own input size."""

    model: Model
    data: DataSet


def random(reference: Reference, flops: int, context: Context) -> Control:
    """Channels drawn at random within the budget, then the recipe's own fine-tuning."""
    own = context.config.prune
    drawn = replace(own, importance="random", allocation="global", objective=Objective.flops, rounds=1)
    folder = context.folder / "controls" / "random"
    folder.mkdir(parents=True, exist_ok=True)
    context = replace(_as_long(replace(context, config=replace(context.config, prune=drawn)), own), folder=folder)
    product = Product(_model(reference), reference)
    return Control(finetune.run(prune.run(product, context), context).model, context.data)


def smaller_input(reference: Reference, flops: int, context: Context) -> Control:
    """The unpruned network at the largest input within `flops`, fine-tuned there without a teacher: the only better
    network there is looks at larger images.

    Raises:
        UserError: no input is small enough.
    """
    model = _model(reference)
    imgsz = input_within(model, flops)
    alone = replace(context.config, finetune=replace(context.config.finetune, distillation=0.0, teacher=None))
    context = _as_long(replace(context, config=alone, data=resized(context.data, imgsz)), context.config.prune)
    return Control(finetune.run(Product(model.with_imgsz(imgsz)), context).model, context.data)


def _model(reference: Reference) -> TorchModel:
    assert reference.model is not None  # this run has pruned it
    return require(reference.model, TorchModel, "controls", True)


def _as_long(context: Context, pruned: PruneConfig) -> Context:
    """A fine-tuning as long as all that a model pruned this way has had, between its rounds too."""
    config = context.config
    images = config.finetune.images + (pruned.rounds - 1) * pruned.round_images
    return replace(context, config=replace(config, finetune=replace(config.finetune, images=images)))


def input_within(model: Model, flops: int) -> int:
    """The largest input side, in pixels, at which the deployed form of `model` costs at most `flops`.

    Raises:
        UserError: no input is small enough.
    """
    low, high = 0, model.imgsz // model.stride + 1  # in strides: `low` is within the budget, `high` is not
    while high - low > 1:
        middle = (low + high) // 2
        if flops_at(model, middle * model.stride) <= flops:
            low = middle
        else:
            high = middle
    if low == 0:
        raise UserError("controls", True, f"no input of {type(model).__name__} costs as little as the budget")
    return low * model.stride


CONTROLS: dict[str, Callable[[Reference, int, Context], Control]] = {"random": random, "smaller_input": smaller_input}
