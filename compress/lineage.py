"""Reference and teacher of a pruned model.

The reference is the model before pruning. Its FLOPs determine the learning rate of fine-tuning, and it is the teacher
unless `finetune.teacher` names another. A checkpoint records identity, FLOPs, input size and path of its reference.
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

FOLDER = "reference"  # in the run folder: the reference, if the run itself has trained it
KEY = "finetune.teacher"

log = logging.getLogger(__name__)


def before_pruning(product: Product, config: Config, folder: Path) -> Reference:
    """The reference for pruning `product`: its own if that model could be loaded, else the model of `product`, which is
    saved in the run folder `folder` if this run has trained it."""
    inherited = product.reference
    if inherited is not None and inherited.model is not None:
        return inherited
    model = require(product.model, TorchModel, "stages", "prune")
    path = config.model.path or config.model.weights
    if "train" in config.stages:  # otherwise it is stored already
        checkpoint.save(require(model, checkpoint.Checkpointable, "stages", "prune"), folder / FOLDER)
        path = str((folder / FOLDER).resolve())
    return Reference(model.identity(), flops_at(model, model.imgsz), model.imgsz, path, model)


def remembered(config: ModelConfig, model: Model) -> Reference | None:
    """The reference recorded in the checkpoint `config.path`, with its model if that can be loaded. None if `config`
    names no checkpoint, or that of an unpruned model."""
    if config.family is not Family.checkpoint or config.path is None:
        return None
    entry = checkpoint.describe(Path(config.path)).get("reference")
    if not isinstance(entry, dict):
        return None
    flops, imgsz, path = entry.get("flops"), entry.get("imgsz"), entry.get("path")
    if type(flops) is not int or type(imgsz) is not int or min(flops, imgsz) < 1:
        return None
    reference = Reference(str(entry.get("identity")), flops, imgsz, path if isinstance(path, str) else None)
    beside = Path(config.path).resolve().parent / FOLDER  # still there if the run folder was moved
    for place in (str(beside), reference.path):
        if place is not None and _exists(place) and (teacher := _same(place, reference.identity, model, config)):
            return replace(reference, model=teacher)
    return reference


def as_json(reference: Reference | None) -> dict[str, Any] | None:
    """The record of a reference in a checkpoint."""
    if reference is None:
        return None
    return {
        "identity": reference.identity, "flops": reference.flops, "imgsz": reference.imgsz, "path": reference.path
    }  # fmt: skip


def check(product: Product, config: Config) -> None:
    """Raises UserError if fine-tuning is to distil without a teacher, or from one whose outputs do not match the
    model's."""
    if config.finetune.teacher is not None:
        load(config.finetune.teacher, product.model, config.model)
    elif config.finetune.distillation and "prune" not in config.stages:
        if product.reference is not None and product.reference.model is not None:
            return
        path = product.reference.path if product.reference else None
        example = path if path and _exists(path) else "the folder or .pt of the unpruned model"
        raise UserError(
            "finetune.distillation", config.finetune.distillation,
            f"this run does not prune, so there is no teacher: set {KEY}={example}, or finetune.distillation=0",
        )  # fmt: skip


def settled(config: Config, reference: Reference | None) -> FinetuneConfig:
    """`config.finetune` with `distillation` set: if null, to 1 if a teacher is named or the checkpoint's reference can
    be loaded, else to 0."""
    finetune = config.finetune
    if finetune.distillation is not None:
        return finetune
    inherited = "prune" not in config.stages and reference is not None and reference.model is not None
    return replace(finetune, distillation=float(finetune.teacher is not None or inherited))


def teacher(product: Product, config: Config) -> Model | None:
    """The model to distil from: the one that `finetune.teacher` names, else the reference."""
    named = config.finetune.teacher
    if named is not None:
        return load(named, product.model, config.model)
    return product.reference.model if product.reference else None


def flops_before(product: Product) -> int | None:
    """FLOPs of the reference at the model's input size; None without a reference."""
    reference, model = product.reference, product.model
    if reference is None:
        return None
    if reference.imgsz == model.imgsz:
        return reference.flops
    # FLOPs are recorded at one input size only. Their ratio to the model's hardly depends on it.
    return round(reference.flops * flops_at(model, model.imgsz) / flops_at(model, reference.imgsz))


def cache_parts(teacher: Model | None, before: int | None) -> Mapping[str, Any]:
    """Parts of the cache key of fine-tuning besides model, data and config."""
    return {"flops_before": before, "teacher": None if teacher is None else teacher.identity()}


def load(path: str, model: Model, config: ModelConfig) -> Model:
    """Loads the teacher at `path`: a checkpoint folder, the name of a shipped baseline or an Ultralytics .pt file.

    Args:
        model: the student.

    Raises:
        UserError: the file cannot be read, or the teacher differs in task, kind, input or number of classes.
    """
    try:
        teacher = _read(path, model, config.trust)
    except UserError as error:
        raise UserError(KEY, path, error.remedy if error.key == KEY else f"cannot be read ({error})") from error
    signature, other = (require(network, Trainable, KEY, path).output_signature() for network in (model, teacher))
    for quantity, expected, actual in (
        ("task", model.task.name, teacher.task.name), ("number of classes", len(model.classes), len(teacher.classes)),
        ("input channels", model.channels, teacher.channels), ("input size", model.imgsz, teacher.imgsz),
        ("kind of network", signature, other),
    ):  # fmt: skip
        if expected != actual:
            raise UserError(KEY, path, f"teacher and model must have the same {quantity}, not {actual} and {expected}")
    return teacher


def _exists(path: str) -> bool:
    return path in weights.baselines() or Path(path).exists()


def _same(path: str, identity: str, model: Model, config: ModelConfig) -> Model | None:
    """The model at `path` at the input size of `model`; None if it cannot be loaded or has another identity."""
    try:
        teacher = _read(path, model, config.trust)
    except UserError as error:
        log.warning("the model before pruning cannot be loaded: %s", error)
        return None
    if teacher.identity() != identity:
        log.warning("%s is not the model that %s was pruned from: it is not used as teacher", path, config.path)
        return None
    if teacher.imgsz != model.imgsz and isinstance(teacher, TorchModel):
        return teacher.with_imgsz(model.imgsz)
    return teacher


def _read(path: str, model: Model, trust: bool) -> Model:
    folder = weights.folder(path)
    if folder is not None:
        rebuild = models.rebuilder(require(model, checkpoint.Checkpointable, KEY, path))
        return checkpoint.load(folder, lambda entry: models.from_constructor(entry, True) if trust else rebuild(entry))
    if not Path(path).is_file():
        raise UserError(KEY, path, "no such file or folder: set a checkpoint folder, a shipped baseline or a .pt file")
    return models.build(ModelConfig(Family.ultralytics, path=path, trust=trust))
