"""`data=module data.target=pkg.MyData`: a user-defined data set.

The class is called with `data.args` and must have

    classes: sequence of class names
    train() -> sequence of `compress.data.Sample`; empty for data that is used for evaluation only
    validation() -> sequence of samples

Optional attributes are `task` ("detect", the default, "classify", or an instance of `compress.tasks.SupervisedTask`),
`calibration()` (default: samples held out of `train` by seed), `test()` (reported with data.test=true, does not affect
the verdict) and `augmentation` (a `compress.tasks.augmentation.Augmentation`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from compress import user_code
from compress.config import DataConfig
from compress.data.assembly import assemble
from compress.data.dataset import DataSet
from compress.data.files import probe_all
from compress.data.sample import Sample
from compress.errors import UserError, named
from compress.tasks import TASKS, SupervisedTask
from compress.tasks.augmentation import Augmentation

KEY = "data.target"
EXPECTED = "a class with classes, train() and validation(), see docs/adding/data-set.md"


def load(config: DataConfig, imgsz: int, channels: int, seed: int, task: SupervisedTask | None = None) -> DataSet:
    """Loads the data set of the class at `config.target`.

    Args:
        task: the task named by `task.target`; overrides the attribute `task` of the class.

    Raises:
        UserError: the class cannot be imported, raises, or does not meet the description above.
    """
    path = str(config.target)
    data = user_code.load(KEY, path, config.args, EXPECTED)
    task = task or _task(path, getattr(data, "task", "detect"))
    classes = _classes(path, getattr(data, "classes", None))
    labelled = task if config.labels else None
    samples = {name: _samples(path, data, name, labelled, len(classes)) for name in _splits(path, data, config)}
    chosen = None
    if "calibration" in samples:
        chosen = samples.get("train", []), samples["calibration"][: config.calibration_images]
    augmentation = getattr(data, "augmentation", None) or Augmentation()
    if not isinstance(augmentation, Augmentation):
        raise UserError(KEY, path, f"augmentation is a {type(augmentation).__name__}; expected an Augmentation")
    return assemble(
        task, classes, samples, config, imgsz, channels, seed, chosen=chosen, augmentation=augmentation
    )  # fmt: skip


def _task(path: str, value: object) -> SupervisedTask:
    task = TASKS.get(value) if isinstance(value, str) else value
    if not isinstance(task, SupervisedTask):
        known = ", ".join(name for name, task in TASKS.items() if isinstance(task, SupervisedTask))
        raise UserError(KEY, path, f"task is {value!r}: set one of {known}, or a SupervisedTask")
    return task


def _classes(path: str, value: object) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if not names or not all(isinstance(name, str) and name.strip() for name in names) or len(set(names)) < len(names):
        raise UserError(KEY, path, "classes must be a sequence of different names")
    return names


def _splits(path: str, data: Any, config: DataConfig) -> list[str]:
    """Names of the splits that the data set provides."""
    for name in ("train", "validation"):
        if not callable(getattr(data, name, None)):
            raise UserError(KEY, path, f"has no method {name}(); expected {EXPECTED}")
    optional = ("calibration", *(["test"] if config.test else []))
    return ["train", "validation", *(name for name in optional if callable(getattr(data, name, None)))]


def _samples(path: str, data: Any, name: str, task: SupervisedTask | None, classes: int) -> list[Sample]:
    """The checked samples of a split; labels are checked by `task`, or are ignored if it is None."""
    try:
        samples = list(getattr(data, name)())
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code
        raise UserError(KEY, path, f"{name}() raised {named(error)}") from error
    samples = [_checked(path, f"{name}()[{index}]", sample) for index, sample in enumerate(samples)]
    files = [sample.source for sample in samples if isinstance(sample.source, Path)]
    infos = dict(zip(files, probe_all(files), strict=True))
    samples = [
        replace(sample, size=infos[sample.source][0], digest=infos[sample.source][1])
        if isinstance(sample.source, Path)
        else sample
        for sample in samples
    ]
    if name == "validation" and not samples:
        raise UserError(KEY, path, "validation() returned no samples: return at least one, to measure accuracy on")
    for index, sample in enumerate(samples):
        if task and (problem := task.label_problem(sample.label, classes)):
            raise UserError(KEY, path, f"{name}()[{index}]: {problem}")
    return samples


def _checked(path: str, location: str, sample: object) -> Sample:
    """Validates a sample, and sets size and digest if its image is in memory."""
    if not isinstance(sample, Sample):
        raise UserError(
            KEY, path, f"{location} is a {type(sample).__name__}; expected compress.data.Sample(source, label)"
        )
    if isinstance(sample.source, str | Path):
        return replace(sample, source=Path(sample.source))
    pixels = sample.source
    valid = isinstance(pixels, np.ndarray) and pixels.dtype in (np.uint8, np.uint16) and pixels.size > 0
    if not valid or pixels.ndim not in (2, 3):
        kind = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        expected = "a path, or uint8 or uint16 (h, w) or (h, w, c)"
        raise UserError(KEY, path, f"{location}: its image is {kind}; expected {expected}")
    return replace(sample, size=(pixels.shape[1], pixels.shape[0]), digest=hashlib.sha256(pixels.tobytes()).hexdigest())
