"""Answers: predictions of the unpruned model, which replace labels (`data.labels=false`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.cache import Cache
from compress.capabilities import Checkpointable, Evaluable, GivenAsGraph, Model, require
from compress.data import DataSet, Split, supervised, with_metric
from compress.data.sample import Answer
from compress.digest import digest
from compress.errors import UserError, named
from compress.measurement import accuracy
from compress.tasks import SupervisedTask
from compress.tasks.agreement import Agreement
from compress.training.placement import CPU

VERSION = 1  # of the computation; part of the cache key
BATCH = 16  # as torch models are evaluated, so that the unpruned model agrees with itself exactly
FILE = "answers.npz"
KEY, CONFIDENCE = "data.labels", "data.confidence"

log = logging.getLogger(__name__)


def check(model: Model, data: DataSet) -> None:
    """Raises UserError if the predictions of the model cannot replace the labels of the data."""
    require(model, Evaluable, KEY, False)
    if not isinstance(data.task, SupervisedTask) or type(data.task).as_targets is SupervisedTask.as_targets:
        remedy = f"predictions of the task {data.task.name} cannot replace labels: the task has no method as_targets"
        raise UserError(KEY, False, remedy)


def answered(data: DataSet, model: Model, confidence: float, device: torch.device, cache: Cache) -> DataSet:
    """Returns the data set with predictions of `model` as targets of all splits but `train`, from the cache if they are
    in it, and with the agreement with them as metric.

    Raises:
        UserError: the model predicts nothing at `confidence` or above in the validation images.
    """
    given = {"calibration": data.calibration, "validation": data.validation, **data.extra}
    splits = {name: split for name, split in given.items() if len(split)}
    parts = {
        **source(model, confidence),
        "data": data.fingerprint,
        "images": {name: digest([sample.digest for sample in split.samples]) for name, split in splits.items()},
        "device": device.type,
    }
    made: dict[str, Split] = {}

    def make(folder: Path) -> None:
        made.update({name: with_answers(split, model, confidence, device) for name, split in splits.items()})
        _save({name: [split.target(i) for i in range(len(split))] for name, split in made.items()}, folder / FILE)

    folder, _ = cache.fetch("answers", parts, make)
    if not made:
        made = _load(splits, folder / FILE) or {
            name: with_answers(split, model, confidence, device) for name, split in splits.items()
        }
    if "validation" in made:
        _check_content(made["validation"], confidence)
    data = replace(
        data,
        calibration=made.get("calibration", data.calibration),
        validation=made.get("validation", data.validation),
        extra={name: made.get(name, split) for name, split in data.extra.items()},
    )
    return with_metric(data, Agreement(supervised(data.validation), confidence))


def source(model: Model | None, confidence: float) -> dict[str, Any]:
    """What answers depend on besides the images, for keys of the cache."""
    return {
        "version": VERSION,
        "model": model and model.identity(),
        "constructor": model.constructor() if isinstance(model, Checkpointable) else None,
        "imgsz": model and model.imgsz,
        "confidence": confidence,
    }


def with_answers(split: Split, model: Model, confidence: float, device: torch.device = CPU) -> Split:
    """Returns the split with predictions of `model` as targets. Raises UserError if the task, which may be
    user-defined, cannot convert them."""
    task, decode = supervised(split), require(model, Evaluable, KEY, False).decode
    predict = accuracy.predictor(model.deployed(), CPU if isinstance(model, GivenAsGraph) else device)
    predictions = accuracy.predictions(predict, decode, split, task, batch=BATCH, progress=f"answers {split.name}")
    try:
        targets = task.as_targets(predictions, confidence)
    except UserError:
        raise
    except Exception as error:  # a user-defined task
        raise UserError(KEY, False, f"as_targets of the task {task.name} raised {named(error)}") from error
    return _with_targets(split, targets)


def _with_targets(split: Split, targets: Sequence[Any]) -> Split:
    samples = [replace(sample, label=Answer(target)) for sample, target in zip(split.samples, targets, strict=True)]
    return replace(split, samples=samples)


def _check_content(split: Split, confidence: float) -> None:
    """Raises UserError if all targets are empty. Warns if all are the same class."""
    targets = [split.target(index) for index in range(len(split))]
    if all(hasattr(target, "__len__") and len(target) == 0 for target in targets):
        remedy = f"the model predicts nothing at this score in {len(split)} validation images: is it trained? Set a "
        raise UserError(CONFIDENCE, confidence, remedy + "lower one, or use images that show its classes")
    if all(isinstance(target, int) for target in targets) and len(set(targets)) == 1:
        log.warning("the model predicts the same class for all %d validation images: agreement says little", len(split))


def _save(targets: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Writes the targets of all splits, if they are whole numbers or arrays; otherwise an empty file."""
    plain = all(isinstance(target, int | np.ndarray) for split in targets.values() for target in split)
    entries = {f"{name}/{index}": target for name, split in targets.items() for index, target in enumerate(split)}
    np.savez_compressed(path, **(entries if plain else {}))  # type: ignore[arg-type]  # it has a parameter of type bool


def _load(splits: Mapping[str, Split], path: Path) -> dict[str, Split] | None:
    """The splits with the targets that `_save` wrote; None if it could not write them."""
    with np.load(path, allow_pickle=False) as entries:
        if not entries.files:
            return None
        return {
            name: _with_targets(split, [_plain(entries[f"{name}/{index}"]) for index in range(len(split))])
            for name, split in splits.items()
        }


def _plain(array: np.ndarray) -> Any:
    return array if array.ndim else array.item()
