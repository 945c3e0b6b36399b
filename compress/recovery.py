"""Winning back accuracy: a model's own loss, its training images, its teacher, and the training loop."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import torch
from torch import nn

from compress import distributed
from compress.config import FinetuneConfig
from compress.data import Split, batches
from compress.errors import UserError
from compress.measure import flops
from compress.models import activation
from compress.product import Model, Teacher
from compress.training import Schedule, fit

RATE = 0.0015  # peak learning rate for a network that nothing was taken from


def recover(
    model: Model,
    unpruned: Model | None,
    train: Split,
    config: FinetuneConfig,
    *,
    seed: int,
    stage: str,
    folder: Path,
    trained: bool = True,
) -> Model:
    """The model after the training that `config` describes; its network is trained in place, unless it gets other
    activation functions first.

    Args:
        unpruned: what the model was pruned from. Its answers are learned from beside the labels, as much as
            `config.distillation` says.
        stage: names the config's keys in errors, and the progress.
        folder: where an interrupted training leaves its state, and is taken up again.
        trained: it has been trained before, so that it goes on with the loss weights of a training's end.

    Raises:
        UserError: the learning rate is too high.
    """
    model = activated(model, config, stage)
    rate = learning_rate(model, unpruned) if config.learning_rate is None else config.learning_rate
    guide = teach(unpruned, config.distillation) if unpruned is not None and config.distillation else None
    state = folder / "training.safetensors"
    try:
        plan = schedule(config, rate)
        tuned = distributed.together(_fit, model, guide, train, plan, config.augment, seed, stage, state, trained)
    except FloatingPointError as error:
        state.unlink(missing_ok=True)
        raise UserError(f"{stage}.learning_rate", rate, f"{error}: give a lower one") from error
    state.unlink(missing_ok=True)
    return model.with_net(tuned)


def activated(model: Model, config: FinetuneConfig, stage: str) -> Model:
    """The model with the activation functions that `config` asks for, in a network of its own.

    Raises:
        UserError: it has none that could be replaced.
    """
    wanted = config.activation and config.activation.value
    if wanted in (None, activation.of(model.net)):
        return model
    net = copy.deepcopy(model.net)
    if activation.swap(net, wanted) == 0:
        remedy = "the network has no activation modules (torch.nn.SiLU and its like) to replace: give null"
        raise UserError(f"{stage}.activation", wanted, remedy)
    return model.with_net(net)


def _fit(
    model: Model,
    guide: Teacher | None,
    train: Split,
    plan: Schedule,
    augment: bool,
    seed: int,
    stage: str,
    state: Path,
    trained: bool,
) -> nn.Module:
    load = functools.partial(batches, train, model.task, batch=plan.batch, seed=seed, augment=augment)
    return fit(
        model.net,
        functools.partial(model.loss, teacher=guide),
        lambda epoch: load(epoch=epoch),
        plan,
        seed=seed,
        checkpoint=state,
        progress=stage,
        on_step=lambda share: model.progress(model.net, 1.0 if trained else share),
    )


def learning_rate(model: Model, unpruned: Model | None) -> float:
    """Peak rate for what pruning has left: the more it took the more there is to learn anew, so RATE is multiplied by
    FLOPs before over FLOPs after.

    Tried on drone_nano with 4,000 images and a teacher, mAP50-95 at 30 % of the FLOPs: 0.397 at 0.001, 0.469 at 0.003,
    0.480 at 0.006, 0.462 at 0.01; at 50 % 0.625 at 0.001 and at 0.003; at 15 % 0.173 at 0.003, 0.181 at 0.007.
    """
    if unpruned is None:
        return RATE
    before, after = (flops.count(each.deployed(), each.example_input()).flops for each in (unpruned, model))
    return RATE * before / after


def teach(model: Model, weight: float) -> Teacher:
    """A copy of the model's network to learn from; `weight` is that of its answers beside the labels'."""
    net = copy.deepcopy(model.net).eval().requires_grad_(False)
    return Teacher(net.to(memory_format=torch.channels_last), weight)


def schedule(config: FinetuneConfig, rate: float) -> Schedule:
    """The training loop's schedule for a config; `rate` is the peak learning rate."""
    return Schedule(
        images=config.images,
        batch=config.batch,
        learning_rate=rate,
        optimizer=config.optimizer.value,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        warmup=config.warmup,
        ema=config.ema,
        bfloat16=config.bfloat16,
    )
