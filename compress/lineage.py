"""Reference and teacher of a pruned model. The reference is the model before pruning. Its FLOPs determine the
learning rate of fine-tuning. If distillation is on, it is the teacher, unless `finetune.teacher` names another."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from compress import checkpoint, models
from compress.capabilities import Model, TorchModel, Trainable, require
from compress.config import Config, Family, FinetuneConfig, ModelConfig
from compress.errors import UserError
from compress.measurement.rows import flops_at
from compress.models import weights
from compress.product import Product, Reference
from compress.pruning import solver

FOLDER = "reference"  # in the run folder: the reference, if the run itself has trained it
KEY = "finetune.teacher"

log = logging.getLogger(__name__)


def reference_for_pruning(product: Product, config: Config, folder: Path) -> Reference:
    """Returns the reference of the product that pruning `product` will give.

    A model that was pruned before keeps its reference, so that all pruning counts. Otherwise, also if the model of that
    reference could not be loaded, the reference is the model of `product`; it is saved in the run folder `folder` if
    this run trained it.
    """
    if product.reference is not None and product.reference.model is not None:
        return product.reference
    model = require(product.model, TorchModel, "stages", "prune")
    path = config.model.path or config.model.weights
    if "train" in config.stages:  # otherwise `path` names the file that it was loaded from
        checkpoint.save(require(model, checkpoint.Checkpointable, "stages", "prune"), folder / FOLDER)
        path = str((folder / FOLDER).resolve())
    return Reference(model.identity(), flops_at(model, model.imgsz), model.imgsz, path, model)


def with_kept(reference: Reference, pruned: Model, kept: Mapping[str, Sequence[int]]) -> Reference:
    """Returns the reference of what pruning makes of `pruned`, its own model or one that was pruned from it.
    `kept`: channels of `pruned` that remain (`solver.Pruned.kept`)."""
    before = {} if reference.model is pruned else reference.kept
    return replace(reference, kept=None if before is None else solver.composed(before, kept))


def recorded_reference(config: ModelConfig, model: Model) -> Reference | None:
    """Returns the reference recorded in the checkpoint `config.path`, with its model if the model can be loaded; None
    if `config` is not a checkpoint, or if the checkpoint has no valid record, as that of an unpruned model."""
    if config.family is not Family.checkpoint or config.path is None:
        return None
    entry = checkpoint.describe(Path(config.path)).get("reference")
    if not isinstance(entry, dict):
        return None
    flops, imgsz, path = entry.get("flops"), entry.get("imgsz"), entry.get("path")
    if type(flops) is not int or type(imgsz) is not int or min(flops, imgsz) < 1:
        return None
    path, kept = path if isinstance(path, str) else None, _recorded_channels(entry.get("kept"))
    reference = Reference(str(entry.get("identity")), flops, imgsz, path, kept=kept)
    in_run_folder = Path(config.path).resolve().parent / FOLDER  # valid even if the run folder was moved
    for candidate in (str(in_run_folder), reference.path):
        if candidate is None or not (candidate in weights.baselines() or Path(candidate).exists()):
            continue
        if (teacher := _load_if_identical(candidate, reference.identity, model, config)) is not None:
            return replace(reference, model=teacher)
    return reference


def _recorded_channels(entry: object) -> dict[str, list[int]] | None:
    """`Reference.kept` from a checkpoint; None if it is missing or invalid."""
    if not isinstance(entry, dict):
        return None
    for kept in entry.values():
        good = isinstance(kept, list) and bool(kept) and all(type(index) is int and index >= 0 for index in kept)
        if not good or any(a >= b for a, b in pairwise(kept)):
            return None
    return entry


def as_dict(reference: Reference | None) -> dict[str, Any] | None:
    """The record of a reference in a checkpoint, a JSON object."""
    names = ("identity", "flops", "imgsz", "path", "kept")
    return None if reference is None else {name: getattr(reference, name) for name in names}


def check_teacher(product: Product, config: Config) -> None:
    """Raises UserError if distillation is on, or needed for lack of labels, and there is no teacher, or if the outputs
    of the named teacher do not match those of the model."""
    if config.finetune.teacher is not None:
        load_teacher(config.finetune.teacher, product.model, config.model)
    elif (config.finetune.distillation or not config.data.labels) and "prune" not in config.stages:
        if product.reference is not None and product.reference.model is not None:
            return
        lost = product.reference.path if product.reference else None
        reason = f"the unpruned model {lost} could not be loaded" if lost else "this run does not prune"
        why = f"{reason}, so there is no teacher: set {KEY} to the folder or .pt of the unpruned model"
        if not config.data.labels:
            raise UserError("data.labels", False, f"without labels, finetune needs a teacher; {why}")
        raise UserError("finetune.distillation", config.finetune.distillation, f"{why}, or finetune.distillation=0")


def check_labels(config: Config) -> None:
    """Raises UserError if fine-tuning would need labels that are withheld, since distillation is off."""
    if not config.data.labels and config.finetune.distillation == 0:
        remedy = "without labels (data.labels=false) distillation is the only loss: set null or a positive number"
        raise UserError("finetune.distillation", config.finetune.distillation, remedy)


def with_distillation_weight(config: Config, reference: Reference | None) -> FinetuneConfig:
    """Returns `config.finetune` with a weight instead of a null `distillation`: 1 if `finetune.teacher` is set, if
    there are no labels, or if this run fine-tunes a pruned checkpoint whose reference could be loaded; otherwise 0.
    Runs that prune distil only if the recipe says so, as it costs a second forward pass."""
    finetune = config.finetune
    if finetune.distillation is not None:
        return finetune
    inherited = "prune" not in config.stages and reference is not None and reference.model is not None
    needed = finetune.teacher is not None or not config.data.labels
    return replace(finetune, distillation=float(needed or inherited))


def teacher(product: Product, config: Config) -> Model | None:
    """Returns the model to distil from: the one that `finetune.teacher` names, otherwise the reference."""
    if config.finetune.teacher is not None:
        return load_teacher(config.finetune.teacher, product.model, config.model)
    return product.reference.model if product.reference else None


def reference_flops(product: Product) -> int | None:
    """Returns the FLOPs of the reference at the input size of the model; None without a reference."""
    reference, model = product.reference, product.model
    if reference is None:
        return None
    if reference.imgsz == model.imgsz:
        return reference.flops
    # Recorded at one input size only. The ratio of the FLOPs of both models hardly depends on the size.
    return round(reference.flops * flops_at(model, model.imgsz) / flops_at(model, reference.imgsz))


def cache_parts(teacher: Model | None, flops_before: int | None) -> Mapping[str, Any]:
    """Parts of the cache key of fine-tuning besides model, data and configuration."""
    return {"flops_before": flops_before, "teacher": None if teacher is None else teacher.identity()}


def load_teacher(path: str, model: Model, config: ModelConfig) -> Model:
    """Loads the teacher at `path`: a checkpoint folder, the name of a shipped baseline or an Ultralytics .pt file. Of
    `config`, only `trust` is used. Raises UserError if the file cannot be read, or the teacher differs from the student
    `model` in task, number of classes, input channels, input size or kind of network."""
    try:
        teacher = _read(path, model, config.trust)
    except UserError as error:
        raise UserError(KEY, path, error.remedy if error.key == KEY else f"cannot be read ({error})") from error
    own, taught = (require(network, Trainable, KEY, path).output_signature() for network in (teacher, model))
    for quantity, expected, actual in (
        ("task", model.task.name, teacher.task.name), ("number of classes", len(model.classes), len(teacher.classes)),
        ("input channels", model.channels, teacher.channels), ("input size", model.imgsz, teacher.imgsz),
        ("kind of network", taught, own),
    ):  # fmt: skip
        if expected != actual:
            raise UserError(KEY, path, f"teacher and model must have the same {quantity}, not {actual} and {expected}")
    return teacher


def _load_if_identical(path: str, identity: str, model: Model, config: ModelConfig) -> Model | None:
    """The model at `path`, set to the input size of `model`; None if it cannot be loaded or has another identity."""
    try:
        teacher = _read(path, model, config.trust)
    except UserError as error:
        log.warning("the model before pruning cannot be loaded and is not used as teacher: %s", error)
        return None
    if teacher.identity() != identity:
        log.warning("%s is not the model that %s was pruned from: it is not used as teacher", path, config.path)
        return None
    if teacher.imgsz != model.imgsz and isinstance(teacher, TorchModel):
        return teacher.with_imgsz(model.imgsz)
    return teacher


def _read(path: str, model: Model, trust: bool) -> Model:
    """Loads the model at `path`. Without `trust`, a checkpoint may name no code outside this package and its optional
    packages but that of the student `model`."""
    if (folder := weights.folder(path)) is not None:
        rebuild = models.rebuilder(require(model, checkpoint.Checkpointable, KEY, path))
        return checkpoint.load(folder, partial(models.from_constructor, trust=True) if trust else rebuild)
    if not Path(path).is_file():
        raise UserError(KEY, path, "no such file or folder: set a checkpoint folder, a shipped baseline or a .pt file")
    return models.build(ModelConfig(Family.ultralytics, path=path, trust=trust))
