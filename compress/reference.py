"""What a model was pruned from, and whose answers fine-tuning learns from.

Both are the same where a run prunes and tunes. A checkpoint that is tuned again has been pruned by an earlier run: it
remembers what that cost, and `finetune.teacher` names the teacher.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from compress import checkpoint, models
from compress.config import Config, Family, ModelConfig, Stage
from compress.errors import UserError
from compress.measure.weigh import flops_at
from compress.models import weights
from compress.models.ultralytics_model import UltralyticsModel
from compress.product import Model, identity

FOLDER = "reference"  # in the run folder, where the run itself has trained what it prunes
KEY = "finetune.teacher"


def check(model: Model, config: Config) -> None:
    """Raises UserError where fine-tuning is to learn from a teacher and there is none, or one that cannot teach."""
    if config.finetune.teacher is not None:
        load(config.finetune.teacher, model, config.model)
    elif config.finetune.teaching and Stage.prune not in config.stages:
        before = _remembered(config.model).get("path")
        example = before if _is_there(before) else "the folder or .pt of the unpruned model"
        raise UserError(
            "finetune.distillation", config.finetune.teaching,
            f"nothing is pruned in this run, so there is no teacher: give {KEY}={example}, or finetune.distillation=0",
        )  # fmt: skip


def _is_there(path: object) -> bool:
    return isinstance(path, str) and (path in weights.baselines() or Path(path).exists())


def load(given: str, model: Model, config: ModelConfig) -> Model:
    """The teacher that `given` names: a checkpoint's folder, a shipped baseline or a .pt of Ultralytics.

    Args:
        model: the network that is to learn from it.

    Raises:
        UserError: it cannot be read, or is of another task, kind, input or number of classes.
    """
    try:
        teacher = _read(given, model, config.trust)
    except UserError as error:
        raise UserError(KEY, given, error.remedy if error.key == KEY else f"cannot be read ({error})") from error
    for what, wanted, found in (
        ("task", model.task.value, teacher.task.value), ("classes", len(model.classes), len(teacher.classes)),
        ("input channels", model.channels, teacher.channels), ("input size in pixels", model.imgsz, teacher.imgsz),
        ("kind of network", _kind(model), _kind(teacher)),
    ):  # fmt: skip
        if wanted != found:
            raise UserError(KEY, given, f"its {what}: {found}, of the model that is tuned: {wanted}; they must agree")
    return teacher


def _read(given: str, model: Model, trust: bool) -> Model:
    folder = weights.folder(given)
    if folder is not None:
        own = models.rebuilder(model)
        return checkpoint.load(folder, lambda facts: models.from_constructor(facts, True) if trust else own(facts))
    if not Path(given).is_file():
        raise UserError(KEY, given, "no such file or folder: give a checkpoint's folder, a shipped baseline or a .pt")
    return models.build(ModelConfig(Family.ultralytics, path=given, trust=trust))


def _kind(model: Model) -> tuple[object, ...]:
    """What the answers of two networks must share to be compared, beside shape: the form of their heads."""
    if not isinstance(model, UltralyticsModel):
        return ("classifier",)
    head = model.net.model[-1]
    strides = tuple(int(stride) for stride in getattr(head, "stride", ()))
    return type(head).__name__, getattr(head, "reg_max", None), strides


def teacher(model: Model, unpruned: Model | None, config: Config) -> Model | None:
    """What fine-tuning of `model` learns from: what the config names, else `unpruned`, which this run has pruned."""
    named = config.finetune.teacher
    return unpruned if named is None else load(named, model, config.model)


def flops_before(model: Model, unpruned: Model | None, config: Config) -> int | None:
    """FLOPs of what `model` was pruned from, at the size of `model`; None where only the teacher can tell."""
    if unpruned is not None:
        return flops_at(unpruned, unpruned.imgsz)
    known = _remembered(config.model)
    count, imgsz = known.get("flops"), known.get("imgsz")
    if type(count) is not int or type(imgsz) is not int or min(count, imgsz) < 1:
        return None
    # Remembered at one input size; the ratio hardly depends on it.
    return round(count * flops_at(model, model.imgsz) / flops_at(model, imgsz))


def parts(known: Model | None, before: int | None) -> dict[str, Any]:
    """What the result of fine-tuning depends on, for the cache: the teacher and `flops_before`."""
    return {"flops_before": before, "teacher": None if known is None else identity(known)}


def facts(config: Config, unpruned: Model | None, folder: Path) -> dict[str, Any] | None:
    """What a checkpoint in the run folder `folder` remembers of the unpruned model: identity, FLOPs at an input size,
    and where it lies. None where nobody knows."""
    if unpruned is None:
        return _remembered(config.model) or None
    own = folder / FOLDER
    path = str(own.resolve()) if own.exists() else config.model.path or config.model.weights
    count = flops_at(unpruned, unpruned.imgsz)
    return {"identity": identity(unpruned), "flops": count, "imgsz": unpruned.imgsz, "path": path}


def _remembered(config: ModelConfig) -> dict[str, Any]:
    if config.family is not Family.checkpoint or config.path is None:
        return {}
    known = checkpoint.describe(Path(config.path)).get("reference")
    return copy.deepcopy(known) if isinstance(known, dict) else {}
