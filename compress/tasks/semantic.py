"""Semantic segmentation: one class per pixel, evaluated by the mean intersection over union (mIoU) of the classes
(Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2015, § 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor
from torch.nn import functional as F

from compress.errors import UserError, one_line
from compress.tasks import drawing
from compress.tasks.augmentation import Augmentation, Geometry, placement, recolour, tiles
from compress.tasks.instances import Instances, rings
from compress.tasks.metric import Accuracy, Metric, fingerprint, interval, resamples
from compress.tasks.outputs import Outputs
from compress.tasks.task import Batch, PlainNetworkTask, Predictions, images_to_tensor

IGNORED = 255  # value of pixels without a label: they count neither in training nor in evaluation
BACKGROUND = "background"  # class 0 of data with polygons: pixels outside of all of them
MOST_PIXELS = 2**28  # of a mask; a compressed file of a few bytes can state any size
GRID = 8  # confidences are kept of every eighth pixel along each axis


@dataclass(frozen=True)
class MaskFile:
    """A mask in a PNG file of one channel with 8 bits, or of a palette: class indices and IGNORED."""

    path: Path
    digest: str  # of the content

    def tobytes(self) -> bytes:
        """For hashes of labels."""
        return self.digest.encode()

    def read(self) -> np.ndarray:
        """The pixels, uint8 (h, w). Raises UserError if the file cannot be decoded or is of another kind."""
        try:
            # Not Image.open: Ultralytics, once imported, patches it to request another package for unknown formats.
            with PngImageFile(self.path) as image:
                if image.mode not in ("L", "P"):
                    raise ValueError(f"its mode is {image.mode}; expected 8-bit greyscale or a palette")
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels are too many")
                return np.asarray(image)
        except (OSError, ValueError, SyntaxError) as error:  # a SyntaxError of the file, which is no PNG
            raise UserError("data", self.path, f"the mask cannot be read ({one_line(error)}): correct it") from error


@dataclass(frozen=True)
class PixelClasses:
    """The predicted classes of an image."""

    classes: np.ndarray  # uint8 (s, s)
    confidences: np.ndarray  # float32 (s / GRID, s / GRID), probabilities of the predicted classes


class PixelMetric:
    """mIoU: intersection over union of a class's pixels in all images together, mean over the classes with labels.
    pixel_accuracy: fraction of the labelled pixels whose class is right. mean_class_accuracy: its mean over classes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def evaluate(self, predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> Accuracy:
        """Evaluates `PixelClasses` against masks uint8 (s, s). Raises UserError if no pixel has a label."""
        counts = np.stack([_confusion(p.classes, t, len(classes)) for p, t in zip(predictions, targets, strict=True)])
        total = counts.sum(axis=0)
        if not total.any():
            raise UserError("data", f"{len(targets)} validation images", "no pixel has a label: add masks")
        figures = {name: float(compute(total[None])[0]) for name, compute in FIGURES.items()}
        # (images, resamples) to (resamples, classes, classes)
        resampled = FIGURES[self.name](np.tensordot(resamples(len(targets)).T, counts, axes=1))
        each = _ious(total[None])[0]
        return Accuracy(
            metric=self.name,
            value=figures.pop(self.name),
            images=len(targets),
            ci95=interval(resampled),
            details=figures,
            per_class={name: float(each[index]) for index, name in enumerate(classes) if total[index].any()},
            resampled=resampled,
            fingerprint=fingerprint([np.asarray(target) for target in targets]),
        )


def _confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Pixels (classes, classes) by label and prediction, without ignored ones."""
    labelled = truth != IGNORED
    pairs = truth[labelled].astype(np.int64) * classes + predicted[labelled]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _ious(counts: np.ndarray) -> np.ndarray:
    """IoU (b, classes) of confusion matrices (b, classes, classes); NaN for a class without labels."""
    hits, truth, predicted = np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2), counts.sum(axis=1)
    return np.divide(hits, truth + predicted - hits, out=np.full(hits.shape, np.nan), where=truth > 0)


def _class_accuracies(counts: np.ndarray) -> np.ndarray:
    truth = counts.sum(axis=2)
    hits = np.diagonal(counts, axis1=1, axis2=2)
    return np.divide(hits, truth, out=np.full(hits.shape, np.nan), where=truth > 0)


# Of confusion matrices (b, classes, classes): (b,)
FIGURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mIoU": lambda counts: np.nanmean(_ious(counts), axis=1),
    "pixel_accuracy": lambda counts: np.trace(counts, axis1=1, axis2=2) / counts.sum(axis=(1, 2)),
    "mean_class_accuracy": lambda counts: np.nanmean(_class_accuracies(counts), axis=1),
}
MEAN_IOU = PixelMetric("mIoU")


@dataclass(frozen=True)
class Semantic(PlainNetworkTask):
    """A class for each pixel.

    Labels are a `MaskFile`, uint8 (h, w) of class indices and IGNORED, or polygons (`Instances`), of which class i is
    class i + 1 and pixels outside are class 0; later polygons lie on earlier ones. Targets are uint8 (s, s); the
    padding of letterboxing is IGNORED. A batch has `img` and `mask`, uint8 (b, s, s).
    """

    metric: Metric = MEAN_IOU
    agreement: ClassVar[str] = "IoU of the pixels of a class, mean over the classes that either predicts"
    expected_output: ClassVar[str] = (
        "a network for semantic segmentation returns (batch, classes, height, width) logits of the input's size"
    )

    def metrics(self, classes: int) -> Mapping[str, Metric]:
        return {name: PixelMetric(name) for name in FIGURES}

    def target(self, label: Any, size: tuple[int, int], imgsz: int) -> np.ndarray:
        if isinstance(label, Instances):
            return _filled(label, size, imgsz)
        mask = label.read() if isinstance(label, MaskFile) else label
        if mask.shape == (imgsz, imgsz):
            return mask
        width, height, left, top = placement(size, imgsz)
        target = np.full((imgsz, imgsz), IGNORED, np.uint8)
        scaled = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        target[top : top + height, left : left + width] = scaled
        return target

    def classes_in(self, label: Any) -> set[int]:
        """Those of polygons and arrays. Files are not read, so they are not stratified."""
        if isinstance(label, Instances):
            return set((label.boxes[:, 0].astype(int) + 1).tolist())
        return set() if isinstance(label, MaskFile) else set(np.unique(label).tolist()) - {IGNORED}

    def label_problem(self, label: Any, classes: int) -> str | None:
        if isinstance(label, Instances | MaskFile):
            return None
        if not isinstance(label, np.ndarray) or label.ndim != 2 or label.dtype != np.uint8:
            return f"the label is {type(label).__name__}; expected uint8 (h, w): class indices, {IGNORED} to ignore"
        if unknown := sorted(set(np.unique(label).tolist()) - {*range(classes), IGNORED}):
            return f"the label has pixels of class {unknown[0]}; expected 0 to {classes - 1}, or {IGNORED} to ignore"
        return None

    def collate(
        self, images: list[np.ndarray], targets: list[Any], augmentation: Augmentation, rng: np.random.Generator | None
    ) -> Batch:
        if rng is not None:
            pairs = [_augmented(image, mask, augmentation, rng) for image, mask in zip(images, targets, strict=True)]
            images, targets = [image for image, _ in pairs], [mask for _, mask in pairs]
            chance = augmentation.mosaic
            pairs = [_mosaic(images, targets, i, rng) if rng.random() < chance else pairs[i] for i in range(len(pairs))]
            images, targets = [image for image, _ in pairs], [mask for _, mask in pairs]
        return {"img": images_to_tensor(images), "mask": torch.from_numpy(np.stack(targets))}

    def as_targets(self, predictions: Predictions, confidence: float) -> list[Any]:
        """The predicted classes of all pixels, whatever their confidence."""
        return [image.classes for image in predictions]

    def draw(self, canvas: np.ndarray, target: Any, scale: float, classes: Sequence[str]) -> None:
        """Colours all classes but the first one, which is the background of most data."""
        mask = cv2.resize(target, canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        for index in sorted(set(np.unique(mask).tolist()) - {0, IGNORED}):
            drawing.area(canvas, mask == index, index - 1)
            y, x = (int(axis.min()) for axis in np.nonzero(mask == index))
            drawing.label(canvas, (x, y), index - 1, classes[index])

    def values(self, predictions: Predictions) -> list[np.ndarray]:
        return [image.confidences for image in predictions]

    def confidence_shift(self, expected: Predictions, obtained: Predictions) -> float | None:
        """Compares the probabilities of predicted classes on a grid of pixels. A pixel of another class counts as a
        change of 1."""
        changes = []
        for before, after in zip(expected, obtained, strict=True):
            same = before.classes[::GRID, ::GRID] == after.classes[::GRID, ::GRID]
            changes.append(np.where(same, np.abs(before.confidences - after.confidences), 1.0))
        return float(np.median(np.stack(changes))) if changes else None

    def agreements(self, expected: Predictions, obtained: Predictions, confidence: float) -> list[float]:
        pairs = zip(expected, obtained, strict=True)
        return [_mean_iou(before.classes, after.classes) for before, after in pairs]

    def network_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy loss of logits (b, classes, s, s) over the pixels with a label."""
        mask = batch["mask"].long()
        total = F.cross_entropy(outputs, mask, ignore_index=IGNORED, reduction="sum")
        return total / (mask != IGNORED).sum().clamp(min=1)

    def distillation_loss(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """Mean cross-entropy with the teacher's probabilities over all pixels (Liu et al., Structured Knowledge
        Distillation for Semantic Segmentation, arXiv:1903.04197, § 3.1)."""
        return F.cross_entropy(outputs, teacher.softmax(1))

    def decode(self, outputs: Outputs) -> list[PixelClasses]:
        """Classes of logits or probabilities (b, classes, s, s)."""
        assert isinstance(outputs, np.ndarray)
        return [_predicted(image) for image in outputs]

    def output_classes(self, output: object, images: int) -> int | None:
        if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != images:
            return None
        return output.shape[1] if output.shape[1] < IGNORED else None


def _mean_iou(one: np.ndarray, other: np.ndarray) -> float:
    masks = [(one == index, other == index) for index in np.union1d(one, other)]
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in masks]))


def _predicted(logits: np.ndarray) -> PixelClasses:
    classes = logits.argmax(axis=0).astype(np.uint8)
    grid = logits[:, ::GRID, ::GRID].astype(np.float64)
    powers = np.exp(grid - grid.max(axis=0))
    return PixelClasses(classes, (powers.max(axis=0) / powers.sum(axis=0)).astype(np.float32))


def _filled(label: Instances, size: tuple[int, int], imgsz: int) -> np.ndarray:
    """The target of polygons, in fractions of an image of `size`."""
    width, height, left, top = placement(size, imgsz)
    target = np.full((imgsz, imgsz), IGNORED, np.uint8)
    inside = np.zeros((height, width), np.uint8)
    for cls, shape in zip(label.boxes[:, 0], label.shapes(), strict=True):
        # The centre of pixel i is at i + 0.5.
        lines = [np.rint(ring * (width, height) - 0.5).astype(np.int32) for ring in rings(shape)]
        cv2.fillPoly(inside, lines, int(cls) + 1)
    target[top : top + height, left : left + width] = inside
    return target


def _augmented(
    image: np.ndarray, mask: np.ndarray, policy: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    geometry = Geometry.draw(image.shape[0], policy, rng)
    moved = geometry.image(mask[:, :, None], interpolation=cv2.INTER_NEAREST, fill=IGNORED)[:, :, 0]
    return recolour(geometry.image(image), policy, rng), moved


def _mosaic(
    images: list[np.ndarray], masks: list[np.ndarray], first: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    canvas, parts = tiles(images, first, rng)
    mask = np.empty_like(masks[first])
    for tile in parts:
        left, top, right, bottom = (int(edge) for edge in tile.window)
        x, y = tile.offset
        mask[top + y : bottom + y, left + x : right + x] = masks[tile.index][top:bottom, left:right]
    return canvas, mask


SEMANTIC = Semantic("semantic")
