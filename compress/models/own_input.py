"""Input size and channels of a model, determined before its network is built, because images are read at this size.
Those that a checkpoint, a .pt file or timm specifies apply unless the user sets others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from compress import checkpoint
from compress.capabilities import Model
from compress.config import DATA_TASKS, TASK_FORMATS, Config, Family, ModelConfig
from compress.errors import UserError
from compress.models import normalisation, plain_network, ultralytics, weights
from compress.tasks import TASKS, Task

IMGSZ = 224  # pixels: default for classifiers


def resolve(config: ModelConfig) -> ModelConfig:
    """Returns `config` with `imgsz` and `channels` set: its own values, else the model's, else the family's defaults.
    Raises UserError if a file of the model cannot be read."""
    imgsz, channels = config.imgsz, config.channels
    if imgsz is None or channels is None:
        own_imgsz, own_channels = _own(config)
        default = ultralytics.IMGSZ if config.family is Family.ultralytics else IMGSZ
        imgsz, channels = imgsz or own_imgsz or default, channels or own_channels or 3
    return replace(config, imgsz=imgsz, channels=channels)


def reads_task(config: Config) -> bool:
    """Whether the labels of the data follow the task of the model."""
    return config.data.task is None and config.data.name in TASK_FORMATS


def with_task(config: Config, task: str | None) -> Config:
    """Returns `config` with `data.task` set to `task`, the model's, if the data follow it and can have such labels."""
    if not reads_task(config) or task not in DATA_TASKS:
        return config
    return replace(config, data=replace(config.data, task=task))


def task_of(config: ModelConfig) -> Task | None:
    """The task of the model, without building it; None if it is not known before. Raises UserError if a file of the
    model cannot be read."""
    if config.family is Family.ultralytics:
        return ultralytics.task_of(config)
    if config.family is Family.checkpoint and config.path is not None:
        constructor = checkpoint.describe(Path(config.path))["constructor"]
        return TASKS.get(str(constructor.get("task"))) or ultralytics.yaml_task(constructor.get("yaml"))
    return None


def _own(config: ModelConfig) -> tuple[int | None, int | None]:
    """Side in pixels and channels; None if unknown."""
    if config.family is Family.checkpoint and config.path is not None:
        return _of_constructor(checkpoint.describe(Path(config.path))["constructor"])
    if config.family is Family.ultralytics and config.path is not None:
        return ultralytics.pt_input(Path(config.path), "model.path", config.trust)
    if config.weights is not None:
        if (folder := weights.folder(config.weights)) is not None:
            return _of_constructor(checkpoint.describe(folder)["constructor"])
        if config.family is Family.ultralytics and Path(config.weights).suffix == ".pt":
            return ultralytics.pt_input(Path(config.weights), "model.weights", config.trust)
    if config.family is Family.timm:
        return plain_network.timm_input(config)
    return None, None


def _of_constructor(constructor: dict[str, Any]) -> tuple[int | None, int | None]:
    return constructor.get("imgsz"), constructor.get("channels")  # `checkpoint.describe` has checked their types


def check_normalisation(config: ModelConfig, model: Model) -> None:
    """Raises UserError if `config` sets another normalisation than the checkpoint `model` was trained with."""
    if config.mean is None or config.std is None:
        return
    requested = normalisation.statistics(config.mean, config.std, model.channels)
    own = model.statistics if isinstance(model, plain_network.PlainNetwork) else None
    if requested != own:
        trained = "none" if own is None else f"mean {list(own.mean)}, std {list(own.std)}"
        why = f"{config.path} was trained with another normalisation ({trained}): set null"
        raise UserError("model.mean", config.mean, why)
