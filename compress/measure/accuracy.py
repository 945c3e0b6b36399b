"""One evaluation for the torch model and every artifact, so that their accuracies compare.

Intervals are percentile bootstraps over images. Every evaluation draws the same resamples, so the difference of two
models on the same images is a paired bootstrap of what each has already kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from compress.errors import TargetFailed, UserError
from compress.measure.mean_ap import Matches, average_precision, collect
from compress.product import Detections, Task

RESAMPLES = 500
_SEED = 0

Predict = Callable[[np.ndarray], np.ndarray]
Decoded = list[Detections] | np.ndarray


class Split(Protocol):
    """What is evaluated on: image(i) uint8 (s, s, c) RGB; target(i) float32 (n, 5) class, x1, y1, x2, y2 in pixels,
    or an int class."""

    def __len__(self) -> int: ...

    def image(self, index: int, /) -> np.ndarray: ...

    def target(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on a validation set, in [0, 1]. What has no place in a ledger row is left out by `row`."""

    metric: str  # "mAP50-95" or "top1"
    value: float
    images: int
    ci95: tuple[float, float]
    map50: float | None = None
    chance: float | None = None  # top-1 of always answering the most frequent class
    per_class: dict[str, float] = field(default_factory=dict)  # AP50-95 or top-1; classes without ground truth absent
    records: Matches | np.ndarray | None = field(default=None, repr=False, compare=False)  # or (images,) bool correct
    resampled: np.ndarray | None = field(default=None, repr=False, compare=False)  # (500,) the value of each resample
    fingerprint: str = field(default="", repr=False)  # of the targets: are two evaluations of the same images?

    def row(self) -> dict[str, Any]:
        """metric, value, images, ci95, and map50 of detectors, chance of classifiers: JSON-able."""
        found = {"metric": self.metric, "value": self.value, "images": self.images, "ci95": list(self.ci95)}
        more = {"map50": self.map50, "chance": self.chance}
        return {**found, **{key: value for key, value in more.items() if value is not None}}


def predictor(net: nn.Module) -> Predict:
    """A torch network as `evaluate` takes it."""

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return net(torch.from_numpy(images)).numpy()

    return predict


def evaluate(
    predict: Predict,
    decode: Callable[[np.ndarray], Decoded],
    split: Split,
    task: Task,
    classes: Sequence[str],
    *,
    batch: int = 1,
    progress: str = "",
) -> Accuracy:
    """Accuracy of `decode(predict(images))` on all of `split`.

    Args:
        predict: float32 (b, c, s, s) in [0, 1] to raw outputs.
        decode: raw outputs to one Detections an image, or scores (b, classes).
        batch: images a call; the last call may hold fewer.
        progress: label of a progress bar; none is drawn without a label or a terminal.

    Raises:
        UserError: the split is empty, or none of its images has ground truth.
        TargetFailed: predictions are NaN, or not one an image.
    """
    if len(split) == 0:
        raise UserError("data", "0 validation images", "give a data set with validation images")
    outputs: list[Any] = []
    with tqdm(total=len(split), desc=progress, unit="img", disable=None if progress else True) as bar:
        for start in range(0, len(split), batch):
            indices = range(start, min(start + batch, len(split)))
            images = np.stack([split.image(index) for index in indices])
            outputs.extend(_checked(decode(predict(_network_input(images))), task, len(indices)))
            bar.update(len(indices))
    targets = [split.target(index) for index in range(len(split))]
    return _mean_ap(outputs, targets, classes) if task is Task.detect else _top1(outputs, targets, classes)


def paired_difference(a: Accuracy, b: Accuracy) -> tuple[float, tuple[float, float]]:
    """a - b (give the baseline first for a drop) and its 95 % interval, paired over images.

    Raises:
        ValueError: they are not of the same metric on the same images.
    """
    if a.resampled is None or b.resampled is None or (a.metric, a.fingerprint) != (b.metric, b.fingerprint):
        raise ValueError("a paired difference needs two evaluations of the same images, as `evaluate` returned them")
    return a.value - b.value, _interval(a.resampled - b.resampled)


def _network_input(images: np.ndarray) -> np.ndarray:
    """uint8 (b, s, s, c) to contiguous float32 (b, c, s, s) in [0, 1]."""
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return np.divide(planes, 255, dtype=np.float32)


def _checked(decoded: Decoded, task: Task, images: int) -> Decoded:
    if len(decoded) != images:
        raise TargetFailed(f"{len(decoded)} predictions for {images} images")
    arrays = [a for d in decoded for a in (d.boxes, d.scores)] if task is Task.detect else [np.asarray(decoded)]
    if any(np.isnan(array).any() for array in arrays):
        raise TargetFailed("predictions hold NaN: the graph is numerically broken in this runtime")
    return decoded


def _mean_ap(found: list[Detections], targets: list[np.ndarray], classes: Sequence[str]) -> Accuracy:
    truths = [np.asarray(target, dtype=np.float32).reshape(-1, 5) for target in targets]
    matches = collect(found, truths, len(classes))
    if not matches.truths.any():
        raise UserError("data", f"{len(truths)} validation images", "none of them has a labelled object")
    ap = average_precision(matches, np.ones((len(truths), 1)))[0]  # (classes, 10)
    present = np.asarray(matches.truths.any(axis=0))
    resampled = average_precision(matches, _resamples(len(truths)))[:, present].mean(axis=2)
    drawn = ~np.isnan(resampled)
    resampled = np.where(drawn, resampled, 0).sum(axis=1) / np.maximum(drawn.sum(axis=1), 1)
    return Accuracy(
        metric="mAP50-95",
        value=float(ap[present].mean()),
        images=len(truths),
        ci95=_interval(resampled),
        map50=float(ap[present, 0].mean()),
        per_class={name: float(ap[i].mean()) for i, name in enumerate(classes) if present[i]},
        records=matches,
        resampled=resampled,
        fingerprint=_fingerprint(truths),
    )


def _top1(scores: list[np.ndarray], targets: list[int], classes: Sequence[str]) -> Accuracy:
    labels = np.array(targets, dtype=np.int64)
    correct = np.argmax(np.stack(scores), axis=1) == labels
    resampled = correct @ _resamples(len(labels)) / len(labels)
    return Accuracy(
        metric="top1",
        value=float(correct.mean()),
        images=len(labels),
        chance=float(np.bincount(labels).max() / len(labels)),
        ci95=_interval(resampled),
        per_class={n: float(correct[labels == i].mean()) for i, n in enumerate(classes) if (labels == i).any()},
        records=correct,
        resampled=resampled,
        fingerprint=_fingerprint([labels]),
    )


def _resamples(images: int) -> np.ndarray:
    """(images, 500) how often each resample holds each image; always the same for a number of images."""
    drawn = np.random.default_rng(_SEED).integers(images, size=(RESAMPLES, images))
    return np.stack([np.bincount(row, minlength=images) for row in drawn], axis=1)


def _interval(samples: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def _fingerprint(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode() + array.tobytes())
    return digest.hexdigest()[:16]
