"""`data=module data.target=pkg.MyData`: a data set of the user's own.

The class is called with `data.args` and offers

    classes: sequence of class names
    train() -> sequence of `compress.data.Sample`; empty where the data can be evaluated only
    validation() -> sequence of samples

and, if it likes, `task` ("detect" by default, "classify" or an instance of `compress.tasks.SupervisedTask`),
`calibration()` (default: held out of `train` by seed), `test()` (reported with data.test=true, never judged) and
`augmentation` (a `compress.tasks.augmentation.Augmentation`).
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
from compress.data.dataset import DataSet, Split, hold_out
from compress.data.files import check_disjoint, fingerprint, look_at_all
from compress.data.sample import Sample
from compress.errors import UserError, named
from compress.tasks import TASKS, SupervisedTask
from compress.tasks.augmentation import Augmentation

KEY = "data.target"
EXPECTED = "a class with classes, train() and validation(), see docs/adding/data-set.md"


def load(config: DataConfig, imgsz: int, channels: int, seed: int, task: SupervisedTask | None = None) -> DataSet:
    """The data set of the class at `config.target`.

    Args:
        task: what `task.target` names; it replaces the class's own.

    Raises:
        UserError: the class cannot be imported, raises, or returns anything else than is described above.
    """
    path = str(config.target)
    made = user_code.load(KEY, path, config.args, EXPECTED)
    task = task or _task(path, getattr(made, "task", "detect"))
    classes = _classes(path, getattr(made, "classes", None))
    samples = {name: _samples(path, made, name, task, len(classes)) for name in _offered(path, made, config)}
    train = samples.get("train", [])
    if "calibration" not in samples:
        train, held = hold_out(train, config.calibration_images, seed)
    else:
        held = samples["calibration"][: config.calibration_images]
    judged = {name: each for name, each in samples.items() if name in ("validation", "test")}
    check_disjoint([*train, *held], judged)
    augmentation = getattr(made, "augmentation", None) or Augmentation()
    if not isinstance(augmentation, Augmentation):
        raise UserError(KEY, path, f"augmentation is a {type(augmentation).__name__}, expected is an Augmentation")

    def split(name: str, each: Sequence[Sample]) -> Split:
        return Split(name, each, imgsz, channels, task, augmentation)

    return DataSet(
        task=task,
        classes=classes,
        train=split("train", train),
        calibration=split("calibration", held),
        validation=split("validation", samples["validation"]).subset(config.validation_images, seed),
        fingerprint=fingerprint(classes, samples),
        extra={"test": split("test", samples["test"])} if "test" in samples else {},
    )


def _task(path: str, given: object) -> SupervisedTask:
    task = TASKS.get(given) if isinstance(given, str) else given
    if not isinstance(task, SupervisedTask):
        known = ", ".join(name for name, each in TASKS.items() if isinstance(each, SupervisedTask))
        raise UserError(KEY, path, f"task is {given!r}: set one of {known}, or a SupervisedTask")
    return task


def _classes(path: str, given: object) -> tuple[str, ...]:
    names = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if not names or not all(isinstance(name, str) and name.strip() for name in names) or len(set(names)) < len(names):
        raise UserError(KEY, path, "classes: expected is a sequence of different names")
    return names


def _offered(path: str, made: Any, config: DataConfig) -> list[str]:
    for name in ("train", "validation"):
        if not callable(getattr(made, name, None)):
            raise UserError(KEY, path, f"has no method {name}(): expected is {EXPECTED}")
    return ["train", "validation", *(n for n in ("calibration",) if callable(getattr(made, n, None)))] + (
        ["test"] if config.test and callable(getattr(made, "test", None)) else []
    )


def _samples(path: str, made: Any, name: str, task: SupervisedTask, classes: int) -> list[Sample]:
    try:
        samples = list(getattr(made, name)())
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code
        raise UserError(KEY, path, f"{name}() raised {named(error)}") from error
    samples = [_measured(path, f"{name}()[{index}]", sample) for index, sample in enumerate(samples)]
    files = [sample.source for sample in samples if isinstance(sample.source, Path)]
    known = dict(zip(files, look_at_all(files), strict=True))
    samples = [
        replace(each, size=known[each.source][0], digest=known[each.source][1])
        if isinstance(each.source, Path)
        else each
        for each in samples
    ]
    if name == "validation" and not samples:
        raise UserError(KEY, path, "validation() returned no samples: accuracy is measured on them")
    for index, sample in enumerate(samples):
        if problem := task.label_problem(sample.label, classes):
            raise UserError(KEY, path, f"{name}()[{index}]: {problem}")
    return samples


def _measured(path: str, where: str, sample: object) -> Sample:
    """The sample, of pixels in memory with size and digest. Raises UserError where it is none, or its image is of
    another form."""
    if not isinstance(sample, Sample):
        raise UserError(
            KEY, path, f"{where} is a {type(sample).__name__}: expected is compress.data.Sample(source, label)"
        )
    if isinstance(sample.source, str | Path):
        return replace(sample, source=Path(sample.source))
    pixels = sample.source
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        kind = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise UserError(KEY, path, f"{where}: its image is {kind}, expected is a path, or uint8 (h, w) or (h, w, 3)")
    return replace(sample, size=(pixels.shape[1], pixels.shape[0]), digest=hashlib.sha256(pixels.tobytes()).hexdigest())
