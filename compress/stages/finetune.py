"""Fine-tunes a pruned model with its own loss and, by distillation, its reference. torch -> torch."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from compress import lineage
from compress.capabilities import TorchModel
from compress.config import Config
from compress.data import DataSet
from compress.finetuning import VERSION, check_training, tune
from compress.product import Product
from compress.stages.context import Context
from compress.stages.stage import Stage

NAME = "finetune"


def check(product: Product, config: Config, data: DataSet) -> None:
    """Raises UserError if the model cannot be trained on the data, or distillation is set without a teacher."""
    check_training(product.model, config.finetune, data, NAME)
    lineage.check_teacher(product, config)


def run(product: Product, context: Context) -> Product:
    """Returns the fine-tuned model with the same reference."""
    config = lineage.with_distillation_weight(context.config, product.reference)
    teacher, flops_before = lineage.teacher(product, context.config), lineage.reference_flops(product)

    def make(folder: Path) -> TorchModel:
        return tune(
            product.model, teacher, context.data.train, config,
            seed=context.config.seed, stage=NAME, folder=folder, settings=context.settings, flops_before=flops_before,
            report=context.report(NAME),
        )  # fmt: skip

    parts = {"version": VERSION, NAME: asdict(config), **lineage.cache_parts(teacher, flops_before)}
    model, cached = context.cached_model(NAME, product.model, parts, make)
    return replace(product, model=model, cached=cached)


STAGE = Stage(NAME, run, check_config=lineage.check_labels, check=check, images=lambda _: ("train",))
