"""`DataSet` and `Split`: named splits of letterboxed images and their targets.

Letterboxing matches the usual preprocessing of deployed detectors: the image keeps its aspect ratio, is scaled up or
down by bilinear interpolation to fit the square input, and is centred on a background of grey 114.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from compress.data.pixels import decode
from compress.data.sample import NO_LABEL, Answer, Sample, Unlabelled
from compress.data.subset import stratified
from compress.digest import digest
from compress.tasks import SupervisedTask, Task
from compress.tasks.augmentation import GREY, Augmentation, placement
from compress.tasks.metric import Metric

SPLITS = ("train", "calibration", "validation")  # of every data set

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Samples in a fixed order, with images and targets converted to the network's input."""

    name: str
    samples: Sequence[Sample]
    imgsz: int  # side of the square input, pixels
    channels: int  # 1 (greyscale), 3 (RGB) or the number of bands
    task: Task
    augmentation: Augmentation = field(default_factory=Augmentation)  # random changes allowed in training
    workers: int | None = None  # processes that make training batches; None: chosen, see `TrainingBatches`

    def __len__(self) -> int:
        return len(self.samples)

    def image(self, index: int) -> np.ndarray:
        """Returns (imgsz, imgsz, channels) in [0, 255]: uint8, or float32 if the file has 16 bits.

        Raises:
            UserError: see `compress.data.pixels.decode`.
        """
        return letterbox(decode(self.samples[index].source, self.channels), self.imgsz)

    def target(self, index: int) -> Any:
        """Returns the label in the coordinates of the network's input, see `SupervisedTask.target`."""
        sample = self.samples[index]
        if isinstance(sample.label, Answer):
            return sample.label.target
        return supervised(self).target(sample.label, sample.size, self.imgsz)

    @property
    def labelled(self) -> bool:
        """Whether samples have targets: labels, or predictions of the unpruned model."""
        return not any(isinstance(sample.label, Unlabelled) for sample in self.samples[:1])

    def first(self, count: int | None) -> Split:
        """Returns the first `count` samples (None: all). Meant for lists that are already shuffled."""
        return self if count is None else replace(self, samples=self.samples[:count])

    def subset(self, count: int | None, seed: int) -> Split:
        """Returns at most `count` samples (None: all), drawn by `stratified`; uniformly without labels."""
        if count is None or count >= len(self):
            return self
        task, labels = supervised(self), [sample.label for sample in self.samples]
        present = [set() if isinstance(label, Answer | Unlabelled) else task.classes_in(label) for label in labels]
        return replace(self, samples=[self.samples[i] for i in stratified(present, count, seed)])


def supervised(split: Split) -> SupervisedTask:
    """Returns the task of a split. Only splits of a `SupervisedTask` have samples."""
    assert isinstance(split.task, SupervisedTask)
    return split.task


@dataclass(frozen=True)
class DataSet:
    """The splits of one data set."""

    task: Task
    classes: tuple[str, ...]
    train: Split
    calibration: Split
    validation: Split
    fingerprint: str  # hash of the complete data, independent of the subsets that a configuration selects
    extra: Mapping[str, Split] = field(default_factory=dict)  # reported, without effect on the verdict


def without_images(task: Task, classes: tuple[str, ...], imgsz: int, channels: int) -> DataSet:
    """Returns the data set of `data=none`: all splits are empty. Enough to count parameters and FLOPs."""
    train, calibration, validation = (
        Split(n, [], imgsz, channels, task) for n in ("train", "calibration", "validation")
    )
    return DataSet(task, classes, train, calibration, validation, fingerprint="none")


def resized(data: DataSet, imgsz: int) -> DataSet:
    """Returns the data set for a square input of `imgsz` pixels."""
    return _with(data, imgsz=imgsz)


def with_workers(data: DataSet, workers: int | None) -> DataSet:
    """Returns the data set whose training batches are made by `workers` processes."""
    return _with(data, workers=workers)


def with_metric(data: DataSet, metric: Metric) -> DataSet:
    """Returns the data set with `metric` in place of the metric of its task."""
    task = replace(supervised(data.validation), metric=metric)
    return replace(_with(data, task=task), task=task)


def without_labels(data: DataSet) -> DataSet:
    """Returns the data set with `NO_LABEL` in place of every label, and another fingerprint."""
    splits = {name: unlabelled(getattr(data, name).samples) for name in SPLITS}
    bare = {name: replace(getattr(data, name), samples=samples) for name, samples in splits.items()}
    extra = {name: replace(split, samples=unlabelled(split.samples)) for name, split in data.extra.items()}
    return replace(data, **bare, extra=extra, fingerprint=digest([data.fingerprint, "without labels"]))


def unlabelled(samples: Sequence[Sample]) -> list[Sample]:
    """Returns the samples with `NO_LABEL` in place of their labels."""
    return [replace(sample, label=NO_LABEL) for sample in samples]


def _with(data: DataSet, **changes: Any) -> DataSet:
    """Replaces fields in all splits."""
    splits = {name: replace(getattr(data, name), **changes) for name in SPLITS}
    extra = {name: replace(split, **changes) for name, split in data.extra.items()}
    return replace(data, **splits, extra=extra)


def letterbox(image: np.ndarray, imgsz: int) -> np.ndarray:
    """Letterboxes an image (h, w, c) with values in [0, 255] into (imgsz, imgsz, c)."""
    height, width, channels = image.shape
    if (height, width) == (imgsz, imgsz):
        return image
    new_width, new_height, left, top = placement((width, height), imgsz)
    resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    canvas = np.full((imgsz, imgsz, channels), GREY, image.dtype)
    canvas[top : top + new_height, left : left + new_width] = resized.reshape(new_height, new_width, channels)
    return canvas


def hold_out(samples: Sequence[Sample], count: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Splits off `count` calibration samples from the training samples, at most a third of them.

    Classification samples are stratified by class. Detection samples are drawn uniformly.

    Returns:
        The remaining training samples and the calibration samples.
    """
    if not samples:
        return [], []
    size = max(1, min(count, len(samples) // 3)) if len(samples) > 1 else 0
    if size < count:
        log.warning("data.calibration_images=%d: only %d of %d images are held out", count, size, len(samples))
    if samples and isinstance(samples[0].label, int):
        drawn = stratified([{sample.label} for sample in samples], size, seed)
    else:
        drawn = np.random.default_rng(seed).permutation(len(samples))[:size].tolist()
    held_out = set(drawn)
    return [s for i, s in enumerate(samples) if i not in held_out], [samples[i] for i in drawn]
