"""Trains the model with its own loss; the result is the baseline. torch -> torch."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from compress.capabilities import TorchModel
from compress.config import Config
from compress.data import DataSet
from compress.errors import UserError
from compress.finetuning import VERSION, check_training, tune
from compress.product import Product
from compress.stages.context import Context
from compress.stages.stage import Stage

NAME = "train"


def check(product: Product, config: Config, data: DataSet) -> None:
    """Raises UserError if the model cannot be trained on the data, or a teacher is set."""
    check_training(product.model, config.train, data, NAME)
    for key in ("distillation", "teacher"):
        if value := getattr(config.train, key):
            raise UserError(f"train.{key}", value, "only finetune has a teacher: set null here")


def check_config(config: Config) -> None:
    """Raises UserError if there are no labels to train with."""
    if not config.data.labels:
        remedy = "training needs labels, and data.labels is false: remove train from stages, and load a trained model"
        raise UserError("stages", NAME, remedy)


def run(product: Product, context: Context) -> Product:
    """Returns the trained model."""
    config = context.config

    def make(folder: Path) -> TorchModel:
        return tune(
            product.model, None, context.data.train, config.train,
            seed=config.seed, stage=NAME, folder=folder, trained=False, settings=context.settings,
            report=context.report(NAME),
        )  # fmt: skip

    parts = {"version": VERSION, NAME: asdict(config.train)}
    model, cached = context.cached_model(NAME, product.model, parts, make)
    return replace(product, model=model, cached=cached)


STAGE = Stage(NAME, run, check_config=check_config, check=check, images=lambda _: ("train",), makes_baseline=True)
