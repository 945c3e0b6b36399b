"""Lineage: the model that a pruned model was pruned from. Fine-tuning distils from it, and its FLOPs set the learning
rate.

Where a run prunes, the reference is the model before pruning. A checkpoint remembers its reference: identity, FLOPs and
where it is stored. `finetune.teacher` names another teacher.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress import checkpoint, models
from compress.capabilities import Model, TorchModel, Trainable, require
from compress.config import Config, Family, FinetuneConfig, ModelConfig
from compress.errors import UserError
from compress.measurement.rows import flops_at
from compress.models import weights
from compress.product import Product, Reference

FOLDER = "reference"  # in the run folder, where the run itself has trained what it prunes
KEY = "finetune.teacher"

log = logging.getLogger(__name__)


def before_pruning(product: Product, config: Config, folder: Path) -> Reference:
    """The reference of what the stage prune makes of `product`: that of an earlier run where its files are there, else
    the product's own model, which is saved in the run folder `folder` if this run has trained it."""
    known = product.reference
    if known is not None and known.model is not None:
        return known
    model = require(product.model, TorchModel, "stages", "prune")
    path = config.model.path or config.model.weights
    if "train" in config.stages:  # else it is what the user gave
        checkpoint.save(require(model, checkpoint.Checkpointable, "stages", "prune"), folder / FOLDER)
        path = str((folder / FOLDER).resolve())
    return Reference(model.identity(), flops_at(model, model.imgsz), model.imgsz, path, model)


def remembered(config: ModelConfig, model: Model) -> Reference | None:
    """The reference that the checkpoint `config.path` remembers, with its model where that can be loaded; None where
    `config` names no checkpoint, or one of a model that was not pruned."""
    if config.family is not Family.checkpoint or config.path is None:
        return None
    entry = checkpoint.describe(Path(config.path)).get("reference")
    if not isinstance(entry, dict):
        return None
    flops, imgsz, path = entry.get("flops"), entry.get("imgsz"), entry.get("path")
    if type(flops) is not int or type(imgsz) is not int or min(flops, imgsz) < 1:
        return None
    kept = Reference(str(entry.get("identity")), flops, imgsz, path if isinstance(path, str) else None)
    beside = Path(config.path).resolve().parent / FOLDER  # a run folder that was moved
    for place in (str(beside), kept.path):
        if place is not None and _exists(place) and (teacher := _same(place, kept.identity, model, config)):
            return replace(kept, model=teacher)
    return kept


def as_json(reference: Reference | None) -> dict[str, Any] | None:
    """What a checkpoint remembers of its reference."""
    if reference is None:
        return None
    return {
        "identity": reference.identity, "flops": reference.flops, "imgsz": reference.imgsz, "path": reference.path
    }  # fmt: skip


def check(product: Product, config: Config) -> None:
    """Raises UserError where fine-tuning is to distil and there is no teacher, or one whose outputs cannot be compared
    with the model's."""
    if config.finetune.teacher is not None:
        load(config.finetune.teacher, product.model, config.model)
    elif config.finetune.distillation and "prune" not in config.stages:
        if product.reference is not None and product.reference.model is not None:
            return
        path = product.reference.path if product.reference else None
        example = path if path and _exists(path) else "the folder or .pt of the unpruned model"
        raise UserError(
            "finetune.distillation", config.finetune.distillation,
            f"nothing is pruned in this run, so there is no teacher: set {KEY}={example}, or finetune.distillation=0",
        )  # fmt: skip


def settled(config: Config, reference: Reference | None) -> FinetuneConfig:
    """`config.finetune` with a number for `distillation`: 1 where a teacher is named or a checkpoint's own reference is
    there, else 0."""
    own = config.finetune
    if own.distillation is not None:
        return own
    inherited = "prune" not in config.stages and reference is not None and reference.model is not None
    return replace(own, distillation=float(own.teacher is not None or inherited))


def teacher(product: Product, config: Config) -> Model | None:
    """What fine-tuning learns from: what `finetune.teacher` names, else the reference."""
    named = config.finetune.teacher
    if named is not None:
        return load(named, product.model, config.model)
    return product.reference.model if product.reference else None


def flops_before(product: Product) -> int | None:
    """FLOPs of the reference at the model's input size; None where there is no reference."""
    reference, model = product.reference, product.model
    if reference is None:
        return None
    if reference.imgsz == model.imgsz:
        return reference.flops
    # Known at one input size only; the ratio hardly depends on it.
    return round(reference.flops * flops_at(model, model.imgsz) / flops_at(model, reference.imgsz))


def cache_parts(teacher: Model | None, before: int | None) -> Mapping[str, Any]:
    """What the result of fine-tuning depends on besides model, data and config."""
    return {"flops_before": before, "teacher": None if teacher is None else teacher.identity()}


def load(path: str, model: Model, config: ModelConfig) -> Model:
    """The teacher at `path`: a checkpoint's folder, a shipped baseline's name or a .pt of Ultralytics.

    Args:
        model: the network that is to learn from it.

    Raises:
        UserError: it cannot be read, or is of another task, kind, input or number of classes.
    """
    try:
        teacher = _read(path, model, config.trust)
    except UserError as error:
        raise UserError(KEY, path, error.remedy if error.key == KEY else f"cannot be read ({error})") from error
    ours, theirs = (require(each, Trainable, KEY, path).output_signature() for each in (model, teacher))
    for what, wanted, own in (
        ("task", model.task.name, teacher.task.name), ("classes", len(model.classes), len(teacher.classes)),
        ("input channels", model.channels, teacher.channels), ("input size in pixels", model.imgsz, teacher.imgsz),
        ("kind of network", ours, theirs),
    ):  # fmt: skip
        if wanted != own:
            raise UserError(KEY, path, f"its {what}: {own}, of the model that is tuned: {wanted}; they must agree")
    return teacher


def _exists(path: str) -> bool:
    return path in weights.baselines() or Path(path).exists()


def _same(path: str, identity: str, model: Model, config: ModelConfig) -> Model | None:
    """The model at `path` if it is the one of that identity, at the input size of `model`."""
    try:
        teacher = _read(path, model, config.trust)
    except UserError as error:
        log.warning("the model before pruning cannot be loaded: %s", error)
        return None
    if teacher.identity() != identity:
        log.warning("%s is not the model that %s was pruned from: there is no teacher", path, config.path)
        return None
    if teacher.imgsz != model.imgsz and isinstance(teacher, TorchModel):
        return teacher.with_imgsz(model.imgsz)
    return teacher


def _read(path: str, model: Model, trust: bool) -> Model:
    folder = weights.folder(path)
    if folder is not None:
        own = models.rebuilder(require(model, checkpoint.Checkpointable, KEY, path))
        return checkpoint.load(folder, lambda entry: models.from_constructor(entry, True) if trust else own(entry))
    if not Path(path).is_file():
        raise UserError(KEY, path, "no such file or folder: set a checkpoint's folder, a shipped baseline or a .pt")
    return models.build(ModelConfig(Family.ultralytics, path=path, trust=trust))
