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
from compress.product import Model, Teacher
from compress.training import Schedule, fit


def recover(
    model: Model,
    teacher: Model | None,
    train: Split,
    config: FinetuneConfig,
    *,
    seed: int,
    stage: str,
    folder: Path,
    trained: bool = True,
) -> Model:
    """The model after the training that `config` describes; its network is trained in place.

    Args:
        teacher: whose answers are learned from beside the labels, `config.distillation` says how much.
        stage: names the config's keys in errors, and the progress.
        folder: where an interrupted training leaves its state, and is taken up again.
        trained: it has been trained before, so that it goes on with the loss weights of a training's end.

    Raises:
        UserError: the learning rate is too high.
    """
    state = folder / "training.safetensors"
    try:
        tuned = distributed.together(_fit, model, teacher, train, config, seed, stage, state, trained)
    except FloatingPointError as error:
        state.unlink(missing_ok=True)
        raise UserError(f"{stage}.learning_rate", config.learning_rate, f"{error}: give a lower one") from error
    state.unlink(missing_ok=True)
    return model.with_net(tuned)


def _fit(
    model: Model,
    unpruned: Model | None,
    train: Split,
    config: FinetuneConfig,
    seed: int,
    stage: str,
    state: Path,
    trained: bool,
) -> nn.Module:
    load = functools.partial(batches, train, model.task, batch=config.batch, seed=seed, augment=config.augment)
    teacher = None if unpruned is None else teach(unpruned, config.distillation)
    return fit(
        model.net,
        functools.partial(model.loss, teacher=teacher),
        lambda epoch: load(epoch=epoch),
        schedule(config),
        seed=seed,
        checkpoint=state,
        progress=stage,
        on_step=lambda share: model.progress(model.net, 1.0 if trained else share),
    )


def teach(model: Model, weight: float) -> Teacher:
    """A copy of the model's network to learn from; `weight` is that of its answers beside the labels'."""
    net = copy.deepcopy(model.net).eval().requires_grad_(False)
    return Teacher(net.to(memory_format=torch.channels_last), weight)


def schedule(config: FinetuneConfig) -> Schedule:
    """The training loop's schedule for a config."""
    return Schedule(
        images=config.images,
        batch=config.batch,
        learning_rate=config.learning_rate,
        optimizer=config.optimizer.value,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        warmup=config.warmup,
        ema=config.ema,
        bfloat16=config.bfloat16,
    )
