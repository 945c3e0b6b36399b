"""Finetune: win back the accuracy that pruning cost, with the model's own loss. torch -> torch.

The stage `train` is the same work before pruning: it makes a baseline from initial weights.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from compress import distributed, reference
from compress.config import Config, FinetuneConfig
from compress.data import DataSet
from compress.errors import UserError
from compress.product import Model
from compress.recovery import activated, recover
from compress.stages.context import Context

VERSION = 4


def check(model: Model, config: Config, data: DataSet, stage: str) -> None:
    """Raises UserError where the training split does not fill one batch, there is no teacher to learn from, or no
    activation function to replace."""
    activated(model, getattr(config, stage), stage)
    batch = getattr(config, stage).batch
    if stage == "train":
        for key in ("distillation", "teacher"):
            if value := getattr(config.train, key):
                raise UserError(f"train.{key}", value, "only finetune has a teacher: give null here")
    else:
        reference.check(model, config)
    if batch % distributed.processes():
        remedy = f"give a multiple of {distributed.processes()}: each process takes an equal share"
        raise UserError(f"{stage}.batch", batch, remedy)
    if batch > len(data.train):
        raise UserError(f"{stage}.batch", batch, f"the training split has {len(data.train)} images")


def run(model: Model, context: Context, stage: str = "finetune") -> Model:
    config: FinetuneConfig = getattr(context.config, stage)
    parts = {"version": VERSION, stage: asdict(config)}
    teacher, flops_before = None, None
    if stage != "train":
        teacher = reference.teacher(model, context.unpruned, context.config)
        flops_before = reference.flops_before(model, context.unpruned, context.config)
        parts |= reference.parts(teacher, flops_before)

    def make(folder: Path) -> Model:
        seed, trained = context.config.seed, stage != "train"
        train = context.data.train
        return recover(
            model, teacher, train, config,
            seed=seed, stage=stage, folder=folder, trained=trained, settings=context.settings,
            flops_before=flops_before,
        )  # fmt: skip

    return context.cached_model(stage, model, parts, make)
