"""What a user keeps in a package of his own: semantic segmentation with its data, network and metric, and mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.data import Sample
from compress.tasks import Batch, Outputs, PlainNetworkTask, Predictions
from compress.tasks.augmentation import Augmentation, placement
from compress.tasks.metric import Accuracy, Metric, fingerprint, interval, resamples
from compress.tasks.outputs import first
from compress.tasks.task import images_to_tensor

IGNORED = 255  # pixels beyond the letterboxed image


class MeanIoU:
    """Intersection over union, mean over the classes that occur; counts are summed over images."""

    name = "mIoU"

    def evaluate(self, predictions: Predictions, targets: Sequence[Any], classes: Sequence[str]) -> Accuracy:
        count = len(classes)
        shared, either = np.zeros((len(targets), count)), np.zeros((len(targets), count))
        for index, (scores, mask) in enumerate(zip(predictions, targets)):
            result, valid = np.asarray(scores).argmax(0), mask != IGNORED
            for cls in range(count):
                ours, theirs = (result == cls) & valid, (mask == cls) & valid
                shared[index, cls], either[index, cls] = (ours & theirs).sum(), (ours | theirs).sum()

        def value(weights: np.ndarray) -> float:
            inside, union = weights @ shared, weights @ either
            return float((inside[union > 0] / union[union > 0]).mean())

        resampled = np.array([value(column) for column in resamples(len(targets)).T])
        whole = value(np.ones(len(targets)))
        digest = fingerprint(list(targets))
        return Accuracy(self.name, whole, len(targets), interval(resampled), resampled=resampled, fingerprint=digest)


MEAN_IOU = MeanIoU()


@dataclass(frozen=True)
class Semantic(PlainNetworkTask):
    """Labels and targets are class numbers per pixel, uint8 (h, w); outputs are logits (b, classes, s, s)."""

    metric: Metric = MEAN_IOU
    expected_output = "a segmenter returns (batch, classes, s, s) logits"

    def target(self, label: Any, size: tuple[int, int], imgsz: int) -> np.ndarray:
        width, height, left, top = placement(size, imgsz)
        canvas = np.full((imgsz, imgsz), IGNORED, np.uint8)
        small = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
        canvas[top : top + height, left : left + width] = small
        return canvas

    def collate(
        self, images: list[np.ndarray], targets: list[Any], augmentation: Augmentation, rng: np.random.Generator | None
    ) -> Batch:
        if rng is not None:
            flips = rng.random(len(images)) < 0.5
            images = [image[:, ::-1] if flip else image for image, flip in zip(images, flips)]
            targets = [mask[:, ::-1] if flip else mask for mask, flip in zip(targets, flips)]
        return {"img": images_to_tensor(images), "mask": torch.from_numpy(np.stack(targets).astype(np.int64))}

    def values(self, predictions: Predictions) -> list[np.ndarray]:
        return [np.asarray(each) for each in predictions]

    def confidence_shift(self, expected: Predictions, obtained: Predictions) -> float | None:
        before, after = (np.stack([np.asarray(each) for each in some]) for some in (expected, obtained))
        best = before.argmax(1)[:, None]
        return float(np.median(np.abs(np.take_along_axis(before, best, 1) - np.take_along_axis(after, best, 1))))

    def network_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs, batch["mask"], ignore_index=IGNORED)

    def distillation_loss(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        return F.kl_div(outputs.log_softmax(1), teacher.softmax(1), reduction="batchmean") / outputs[0, 0].numel()

    def decode(self, outputs: Outputs) -> Predictions:
        logits = first(outputs)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def output_classes(self, output: object, images: int) -> int | None:
        good = isinstance(output, Tensor) and output.ndim == 4 and len(output) == images
        return output.shape[1] if good and isinstance(output, Tensor) else None


SEMANTIC = Semantic("semantic")


class Shapes:
    """Bright squares and dark discs on grey noise, drawn from a number."""

    task = SEMANTIC
    classes = ("background", "square", "disc")

    def __init__(self, images: int = 192) -> None:
        self.images = images

    def train(self) -> list[Sample]:
        return [self.sample(index) for index in range(self.images)]

    def validation(self) -> list[Sample]:
        return [self.sample(index) for index in range(10_000, 10_040)]

    def sample(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        pixels = rng.integers(90, 150, (32, 40, 3), dtype=np.uint8)
        mask = np.zeros((32, 40), np.uint8)
        x, y = rng.integers(2, 18, 2).tolist()
        pixels[y : y + 10, x : x + 10], mask[y : y + 10, x : x + 10] = 230, 1
        cv2.circle(pixels, (30, y + 5), 5, (20, 20, 20), -1)
        cv2.circle(mask, (30, y + 5), 5, 2, -1)
        return Sample(pixels, mask)


class Segmenter(nn.Module):
    """Down and up again, images (b, 3, s, s) to logits (b, classes, s, s)."""

    def __init__(self, classes: int = 3, width: int = 32) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
            )

        self.body = nn.Sequential(block(3, width), block(width, 2 * width, 2), block(2 * width, 2 * width))
        self.last = nn.Sequential(nn.Upsample(scale_factor=2), block(2 * width, width), nn.Conv2d(width, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))


class Numbers:
    """A classification set: bright or dark."""

    task = "classify"
    classes: tuple[str, ...] = ("dark", "bright")

    def train(self) -> list[Sample]:
        return [self.sample(index) for index in range(64)]

    def validation(self) -> list[Sample]:
        return [self.sample(index) for index in range(100, 140)]

    def sample(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        return Sample(rng.integers(0, 100, (16, 16), dtype=np.uint8) + np.uint8(150 * (index % 2)), index % 2)


def balanced(predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> float:
    """Recall, mean over the classes that occur."""
    right = np.array([np.argmax(scores) == target for scores, target in zip(predictions, targets)])
    labels = np.array(targets)
    return float(np.mean([right[labels == cls].mean() for cls in set(targets)]))


class Floor:
    """A metric with an argument."""

    name = "accuracy above a floor"

    def __init__(self, floor: float = 0.0) -> None:
        self.floor = floor

    def __call__(self, predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> float:
        return max(self.floor, balanced(predictions, targets, classes))


def above_one(predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> float:
    return 17.0


def raising(predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> float:
    raise KeyError("no such column")


def text(predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> str:
    return "good"


class NoClasses(Numbers):
    classes: tuple[str, ...] = ()


class NoValidation(Numbers):
    def validation(self) -> list[Sample]:
        return []


class WrongLabel(Numbers):
    def sample(self, index: int) -> Sample:
        return Sample(np.zeros((8, 8), np.uint8), 7)


class WrongPixels(Numbers):
    def sample(self, index: int) -> Sample:
        return Sample(np.zeros((8, 8), np.float64), 0)


class NotSamples(Numbers):
    def train(self) -> list[Any]:
        return [("a.jpg", 0)]


class Raises(Numbers):
    def __init__(self) -> None:
        raise OSError("the disk is not mounted")


class RaisesLater(Numbers):
    def train(self) -> list[Sample]:
        raise OSError("the disk is not mounted")


class OddTask(Numbers):
    task = "depth"


class Empty:
    pass


NOT_A_TASK = 3
