"""Object detection: boxes with classes, evaluated by COCO mean average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from compress.tasks import drawing
from compress.tasks.augmentation import Augmentation, augment_image, mosaic, placed_boxes
from compress.tasks.mean_ap import LEVELS, Detections, accuracy, collect, confident, dice, iou
from compress.tasks.metric import Accuracy, Metric
from compress.tasks.size_ap import average_precision_by_size
from compress.tasks.task import Batch, Predictions, SupervisedTask, box_batch, box_output_kind

MIN_SCORE = 0.25  # minimum score of the detections compared in `confidence_shift`
MIN_IOU = 0.5  # minimum IoU of two boxes of a class that are regarded as the same detection


@dataclass(frozen=True)
class MeanAveragePrecision:
    """COCO average precision of boxes, mean over classes and the thresholds of `name`, see `compress.tasks.mean_ap`."""

    name: str = "mAP50-95"

    def evaluate(self, predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> Accuracy:
        """Evaluates `Detections` against targets float32 (n, 5): class, x1, y1, x2, y2 in input pixels. Raises
        UserError if no image has a labelled object."""
        truths = [np.asarray(target, dtype=np.float32).reshape(-1, 5) for target in targets]
        sizes = average_precision_by_size(predictions, truths, len(classes))
        details = {f"mAP50-95_{size}": value for size, value in sizes.items()}
        return accuracy(collect(predictions, truths, len(classes)), classes, self.name, truths, details)


MEAN_AVERAGE_PRECISION = MeanAveragePrecision()


@dataclass(frozen=True)
class Detect(SupervisedTask):
    """Boxes with classes.

    Labels are float32 (n, 5): class, then centre x, y, width, height as fractions of the image. Targets are float32
    (n, 5): class, x1, y1, x2, y2 in input pixels. A batch of b images with m boxes has `img` float32 (b, c, s, s),
    `cls` (m, 1), `bboxes` (m, 4), centre x, y, width, height as fractions of the input, and `batch_idx` (m,), the index
    of the image of each box.
    """

    metric: Metric = MEAN_AVERAGE_PRECISION
    agreement: ClassVar[str] = "fraction of the boxes of both that match in class and place (IoU at least 0.5)"

    def metrics(self, classes: int) -> Mapping[str, Metric]:
        return {name: MeanAveragePrecision(name) for name in LEVELS}

    def output_kind(self, *, end_to_end: bool, postprocessed: bool) -> str:
        return box_output_kind(end_to_end=end_to_end, postprocessed=postprocessed)

    def target(self, label: Any, size: tuple[int, int], imgsz: int) -> np.ndarray:
        return placed_boxes(label, size, imgsz)

    def classes_in(self, label: Any) -> set[int]:
        return set(label[:, 0].astype(int).tolist())

    def label_problem(self, label: Any, classes: int) -> str | None:
        if not isinstance(label, np.ndarray) or label.ndim != 2 or label.shape[1] != 5:
            kind = f"of shape {label.shape}" if isinstance(label, np.ndarray) else type(label).__name__
            return f"the label is {kind}; expected float32 (n, 5): class, centre x, y, width, height"
        if not np.isfinite(label).all() or (label[:, 1:] < 0).any() or (label[:, 1:] > 1).any():
            return "the label's coordinates must be fractions of the image, in [0, 1]"
        if (label[:, 3:] == 0).any():
            return "the label has a box of zero width or height"
        if (label[:, 0] != label[:, 0].astype(int)).any() or (label[:, 0] < 0).any() or (label[:, 0] >= classes).any():
            return f"the label's classes must be whole numbers from 0 to {classes - 1}"
        return None

    def collate(
        self, images: list[np.ndarray], targets: list[Any], augmentation: Augmentation, rng: np.random.Generator | None
    ) -> Batch:
        if rng is not None:
            pairs = [augment_image(image, boxes, augmentation, rng) for image, boxes in zip(images, targets)]
            images, targets = [image for image, _ in pairs], [boxes for _, boxes in pairs]
            chance = augmentation.mosaic
            pairs = [mosaic(images, targets, i, rng) if rng.random() < chance else pairs[i] for i in range(len(images))]
            images, targets = [image for image, _ in pairs], [boxes for _, boxes in pairs]
        return box_batch(images, targets)

    def as_targets(self, predictions: Predictions, confidence: float) -> list[Any]:
        """The boxes and classes of the detections that score at least `confidence`."""
        targets = []
        for image in self.confident(predictions, confidence):
            solid = (image.boxes[:, 2:] > image.boxes[:, :2]).all(axis=1)
            targets.append(np.column_stack([image.classes, image.boxes]).astype(np.float32)[solid])
        return targets

    def confident(self, predictions: Predictions, confidence: float) -> Sequence[Any]:
        return confident(predictions, confidence)

    def draw(self, canvas: np.ndarray, target: Any, scale: float, classes: Sequence[str]) -> None:
        for row in target:
            drawing.box(canvas, row[1:] * scale, int(row[0]), classes[int(row[0])])

    def agreements(self, expected: Predictions, obtained: Predictions, confidence: float) -> list[float]:
        pairs = zip(self.confident(expected, confidence), self.confident(obtained, confidence), strict=True)
        return [dice(after, before, iou(after.boxes, before.boxes)) for before, after in pairs]

    def values(self, predictions: Predictions) -> list[np.ndarray]:
        return [array for image in predictions for array in (image.boxes, image.scores)]

    def confidence_shift(self, expected: Predictions, obtained: Predictions) -> float | None:
        """Median absolute change of the score, over the expected detections that score at least MIN_SCORE. A detection
        without a match counts as a change of 1."""
        changes = []
        for before, after in zip(expected, obtained, strict=True):
            assert isinstance(before, Detections) and isinstance(after, Detections)
            for box, score, cls in zip(before.boxes, before.scores, before.classes, strict=True):
                if score < MIN_SCORE:
                    break  # scores are in descending order
                same = (after.classes == cls) & (iou(box[None], after.boxes)[0] >= MIN_IOU)
                changes.append(abs(float(score) - float(after.scores[same].max())) if same.any() else 1.0)
        return float(np.median(changes)) if changes else None


DETECT = Detect("detect", published_imgsz=640)
