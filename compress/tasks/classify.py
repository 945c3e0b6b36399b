"""Image classification: one class index per image, logits or probabilities (b, classes), top-1 accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from compress.tasks import drawing
from compress.tasks.augmentation import Augmentation, augment_image
from compress.tasks.class_metrics import ClassMetric, metrics
from compress.tasks.metric import Metric
from compress.tasks.outputs import Outputs, first
from compress.tasks.task import CLASS_WEIGHTS, Batch, PlainNetworkTask, Predictions, images_to_tensor

TEMPERATURE = 4.0  # softmax temperature in distillation; unlikely classes then contribute too


TOP1 = ClassMetric("top1")


@dataclass(frozen=True)
class Classify(PlainNetworkTask):
    """Labels and targets are class indices. A batch has `img` and `cls`, int64 (b,)."""

    metric: Metric = TOP1
    expected_output: ClassVar[str] = "a classifier returns (batch, classes) logits"
    weighs_classes: ClassVar[bool] = True
    agreement: ClassVar[str] = "1 for the same class, else 1 minus the change in probability of the baseline's class"

    def metrics(self, classes: int) -> Mapping[str, Metric]:
        return metrics(classes)

    def output_kind(self, *, end_to_end: bool, postprocessed: bool) -> str:
        return "scores"

    def classes_in(self, label: Any) -> set[int]:
        return {label}

    def label_problem(self, label: Any, classes: int) -> str | None:
        valid = isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= label < classes
        return None if valid else f"the label is {label!r:.40}; expected a class index from 0 to {classes - 1}"

    def collate(
        self, images: list[np.ndarray], targets: list[Any], augmentation: Augmentation, rng: np.random.Generator | None
    ) -> Batch:
        if rng is not None:
            no_boxes = np.zeros((0, 5), np.float32)
            images = [augment_image(image, no_boxes, augmentation, rng)[0] for image in images]
        return {"img": images_to_tensor(images), "cls": torch.tensor(targets, dtype=torch.int64)}

    def as_targets(self, predictions: Predictions, confidence: float) -> list[Any]:
        """The class with the highest score of each image, whatever its score."""
        return np.asarray(predictions).argmax(axis=1).tolist()

    def draw(self, canvas: np.ndarray, target: Any, scale: float, classes: Sequence[str]) -> None:
        drawing.label(canvas, (0, 0), int(target), classes[int(target)])

    def values(self, predictions: Predictions) -> list[np.ndarray]:
        return [np.asarray(predictions)]

    def confidence_shift(self, expected: Predictions, obtained: Predictions) -> float | None:
        """Compares the probability of the class that the expected predictions rank first."""
        before, after = _probabilities(expected), _probabilities(obtained)
        best = before.argmax(axis=1)[:, None]
        return float(np.median(np.abs(np.take_along_axis(before, best, 1) - np.take_along_axis(after, best, 1))))

    def agreements(self, expected: Predictions, obtained: Predictions, confidence: float) -> list[float]:
        before, after = _probabilities(expected), _probabilities(obtained)
        best = before.argmax(axis=1)
        changes = np.abs(np.take_along_axis(before - after, best[:, None], 1)[:, 0])
        same = (best == after.argmax(axis=1)) & np.isfinite(changes)
        return np.where(same, 1.0, 1 - np.nan_to_num(changes, nan=1.0)).tolist()

    def network_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy loss of logits (b, classes), each image weighted with the weight of its class, if any."""
        weights = batch.get(CLASS_WEIGHTS)
        if weights is None:
            return F.cross_entropy(outputs, batch["cls"])
        # Not F.cross_entropy's mean, whose divisor is the sum of the weights: that depends on how a batch is divided.
        return F.cross_entropy(outputs, batch["cls"], weights, reduction="sum") / len(outputs)

    def distillation_loss(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """Cross-entropy with the teacher's softened probabilities, times T² (Hinton et al., arXiv:1503.02531, § 2)."""
        soft = (teacher / TEMPERATURE).softmax(1)
        return TEMPERATURE**2 * F.cross_entropy(outputs / TEMPERATURE, soft)

    def decode(self, outputs: Outputs) -> np.ndarray:
        """Returns the scores (b, classes) unchanged, since only their order matters."""
        return first(outputs)

    def output_classes(self, output: object, images: int) -> int | None:
        if isinstance(output, Tensor) and output.ndim == 2 and len(output) == images:
            return output.shape[1]
        return None


def _probabilities(scores: Predictions) -> np.ndarray:
    """Softmax of logits (b, classes). Scores that are probabilities already are returned unchanged."""
    rows = np.asarray(scores, dtype=np.float64)
    if (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-2):
        return rows
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


CLASSIFY = Classify("classify")
