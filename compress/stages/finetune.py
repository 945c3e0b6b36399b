"""Finetune: win back the accuracy that pruning cost, with the model's own loss. torch -> torch.

The stage `train` is the same work before pruning: it makes a baseline from initial weights.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from compress import distributed
from compress.config import Config, FinetuneConfig
from compress.data import DataSet, Split, batches
from compress.errors import UserError
from compress.product import Model, Teacher
from compress.stages.context import Context, identity
from compress.training import Schedule, fit

VERSION = 2


def check(config: Config, data: DataSet, stage: str) -> None:
    """Raises UserError where the training split does not fill one batch, or there is no teacher to learn from."""
    batch = getattr(config, stage).batch
    if stage == "train" and config.train.distillation:
        raise UserError("train.distillation", config.train.distillation, "only finetune has a teacher: give 0 here")
    if batch % distributed.processes():
        remedy = f"give a multiple of {distributed.processes()}: each process takes an equal share"
        raise UserError(f"{stage}.batch", batch, remedy)
    if batch > len(data.train):
        raise UserError(f"{stage}.batch", batch, f"the training split has {len(data.train)} images")


def run(model: Model, context: Context, stage: str = "finetune") -> Model:
    config: FinetuneConfig = getattr(context.config, stage)
    parts = {"version": VERSION, stage: asdict(config)}
    unpruned = context.unpruned if config.distillation else None
    if unpruned is not None:
        parts["teacher"] = identity(unpruned)
    return context.cached_model(stage, model, parts, functools.partial(_tune, model, unpruned, context, config, stage))


def _tune(
    model: Model, unpruned: Model | None, context: Context, config: FinetuneConfig, stage: str, folder: Path
) -> Model:
    state = folder / "training.safetensors"
    try:
        tuned = distributed.together(
            _fit, model, unpruned, context.data.train, config, context.config.seed, stage, state
        )
    except FloatingPointError as error:
        state.unlink(missing_ok=True)
        raise UserError(f"{stage}.learning_rate", config.learning_rate, f"{error}: give a lower one") from error
    state.unlink(missing_ok=True)
    return model.with_net(tuned)


def _fit(
    model: Model, unpruned: Model | None, train: Split, config: FinetuneConfig, seed: int, stage: str, state: Path
) -> nn.Module:
    load = functools.partial(batches, train, model.task, batch=config.batch, seed=seed, augment=config.augment)
    # What is already trained goes on where its training ended, not with the loss weights of a beginner.
    start = 0.0 if stage == "train" else 1.0
    teacher = None if unpruned is None else _teacher(unpruned, config.distillation)
    return fit(
        model.net,
        functools.partial(model.loss, teacher=teacher),
        lambda epoch: load(epoch=epoch),
        schedule(config),
        seed=seed,
        checkpoint=state,
        progress=stage,
        on_step=lambda share: model.progress(model.net, start + (1 - start) * share),
    )


def _teacher(unpruned: Model, weight: float) -> Teacher:
    net = copy.deepcopy(unpruned.net).eval().requires_grad_(False)
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
