"""What a data set is: named splits of letterboxed images and their targets.

The letterbox follows what detectors are deployed with: the image keeps its aspect ratio, is scaled (up too) by bilinear
interpolation to fit the square input, and is centred on grey 114.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from compress.data.sample import Sample
from compress.data.subset import stratified
from compress.errors import UserError
from compress.tasks import SupervisedTask, Task
from compress.tasks.augmentation import GREY, Augmentation, placement
from compress.tasks.metric import Metric

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Samples in a fixed order, seen through the network's input."""

    name: str
    samples: Sequence[Sample]
    imgsz: int
    channels: int
    task: Task
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __len__(self) -> int:
        return len(self.samples)

    def image(self, index: int) -> np.ndarray:
        """uint8 (imgsz, imgsz, channels), RGB. Raises UserError where the file does not decode."""
        return letterbox(_pixels(self.samples[index].source, self.channels), self.imgsz)

    def target(self, index: int) -> Any:
        """The label in the coordinates of the network's input, see `SupervisedTask.target`."""
        sample = self.samples[index]
        return supervised(self).target(sample.label, sample.size, self.imgsz)

    def first(self, count: int | None) -> Split:
        """The first `count` samples; all where it is None. For lists that were shuffled when they were made."""
        return self if count is None else replace(self, samples=self.samples[:count])

    def subset(self, count: int | None, seed: int) -> Split:
        """`count` samples drawn by seed, see `stratified`; all where there are no more, or it is None."""
        if count is None or count >= len(self):
            return self
        task = supervised(self)
        strata = [task.classes_in(sample.label) for sample in self.samples]
        return replace(self, samples=[self.samples[i] for i in stratified(strata, count, seed)])


def supervised(split: Split) -> SupervisedTask:
    """The task of a split with samples; splits of other tasks are empty."""
    assert isinstance(split.task, SupervisedTask)
    return split.task


@dataclass(frozen=True)
class DataSet:
    """The splits of one data set. `fingerprint` names the data's contents, whatever a config picks of them."""

    task: Task
    classes: tuple[str, ...]
    train: Split
    calibration: Split
    validation: Split
    fingerprint: str
    extra: Mapping[str, Split] = field(default_factory=dict)  # reported on, never judged


def without_images(task: Task, classes: tuple[str, ...], imgsz: int, channels: int) -> DataSet:
    """`data=none`: empty splits, for what is counted rather than measured."""
    train, calibration, validation = (
        Split(n, [], imgsz, channels, task) for n in ("train", "calibration", "validation")
    )
    return DataSet(task, classes, train, calibration, validation, fingerprint="none")


def resized(data: DataSet, imgsz: int) -> DataSet:
    """The same images and labels for another input size, square, in pixels."""
    return _with(data, imgsz=imgsz)


def with_metric(data: DataSet, metric: Metric) -> DataSet:
    """The same images and labels, evaluated by another metric than that of their task."""
    task = replace(supervised(data.validation), metric=metric)
    return replace(_with(data, task=task), task=task)


def _with(data: DataSet, **changes: Any) -> DataSet:
    """Applies the changes to all splits."""
    splits = {name: replace(getattr(data, name), **changes) for name in ("train", "calibration", "validation")}
    extra = {name: replace(split, **changes) for name, split in data.extra.items()}
    return replace(data, **splits, extra=extra)


def letterbox(image: np.ndarray, imgsz: int) -> np.ndarray:
    """Fits uint8 (h, w, c) into (imgsz, imgsz, c)."""
    height, width, channels = image.shape
    if (height, width) == (imgsz, imgsz):
        return image
    new_width, new_height, left, top = placement((width, height), imgsz)
    resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    canvas = np.full((imgsz, imgsz, channels), GREY, np.uint8)
    canvas[top : top + new_height, left : left + new_width] = resized.reshape(new_height, new_width, channels)
    return canvas


def _pixels(source: Path | np.ndarray, channels: int) -> np.ndarray:
    """uint8 (h, w, channels)."""
    if isinstance(source, Path):
        flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
        image = cv2.imread(str(source), flag)
        if image is None:
            raise UserError("data", source, "this image does not decode: fix or remove it")
    else:
        image = source
    if image.ndim == 2:
        image = image[:, :, None]
    return image if image.shape[2] == channels else np.repeat(image, channels, axis=2)


def hold_out(samples: Sequence[Sample], count: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Draws a calibration split out of the training samples.

    The two never overlap, and calibration takes a third of the samples at most. Classes are stratified; of detection
    images a plain draw is taken, in which every image is as likely as any other.

    Returns:
        The samples left for training, and the calibration samples.
    """
    if not samples:
        return [], []
    taken = max(1, min(count, len(samples) // 3)) if len(samples) > 1 else 0
    if taken < count:
        log.warning("calibration: %d images asked for, %d held out of %d", count, taken, len(samples))
    if samples and isinstance(samples[0].label, int):
        drawn = stratified([{sample.label} for sample in samples], taken, seed)
    else:
        drawn = np.random.default_rng(seed).permutation(len(samples))[:taken].tolist()
    held = set(drawn)
    return [s for i, s in enumerate(samples) if i not in held], [samples[i] for i in drawn]
