"""Interfaces of tasks. `Task` suffices for pruning, saving and exporting a model. `SupervisedTask` adds labels, batches
and a metric for training and evaluation, `PlainNetworkTask` loss and decoding for networks without them (timm, module).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from compress.errors import UserError
from compress.tasks.augmentation import Augmentation, augment_image, mosaic
from compress.tasks.metric import Metric
from compress.tasks.outputs import Outputs

# A training batch. `img`: float32 (b, c, s, s) in [0, 1], RGB. Further entries are defined by the task's `collate`.
Batch = dict[str, Tensor]
CLASS_WEIGHTS = "class_weights"  # entry of a batch: float32 (classes,), see `SupervisedTask.weighs_classes`
Predictions = Sequence[Any] | np.ndarray  # one per image, as the task's `decode` returns them


@dataclass(frozen=True)
class Task:
    """What a model predicts, for example boxes or classes."""

    name: str  # in configuration files, manifests and Ultralytics
    published_imgsz: int | None = None  # input side in pixels for which FLOPs are usually published, if there is one
    path: str = ""  # import path of a user-defined task, stored in checkpoints

    def output_kind(self, *, end_to_end: bool, postprocessed: bool) -> str:
        """Returns the name of an exported file's output format, for manifest and bench kit. `end_to_end`: the network
        selects the final detections itself. `postprocessed`: this selection is part of the exported file."""
        return self.name


def box_output_kind(*, end_to_end: bool, postprocessed: bool) -> str:
    """Returns the format of boxes and scores in an exported file's raw output, see `Task.output_kind`. Further values
    of a box follow in the same row. `bench_kit/labelled_images.py` reads these formats."""
    if not end_to_end:
        return "anchors"
    return "detections" if postprocessed else "rows"


@dataclass(frozen=True)
class SupervisedTask(Task):
    """A task with labels (those of `compress.data.Sample`): its models can be trained and evaluated. Targets are labels
    in the coordinates of the network's input."""

    metric: Metric = field(kw_only=True)
    weighs_classes: ClassVar[bool] = False  # whether the loss uses a batch's CLASS_WEIGHTS, if there are any
    agreement: ClassVar[str] = ""  # definition of `agreements`, for the report; empty: not supported

    def metrics(self, classes: int) -> Mapping[str, Metric]:
        """Returns the metrics that `metric=NAME` can select for so many classes."""
        return {self.metric.name: self.metric}

    def target(self, label: Any, size: tuple[int, int], imgsz: int) -> Any:
        """Converts a label of an image of `size`, (width, height), to the letterboxed input of side `imgsz`; pixels."""
        return label

    def kit_label(self, target: Any) -> Any:
        """Converts a target to what the bench kit compares with a raw output whose `output_kind` it knows: a class
        index, or float32 (n, 5): class, x1, y1, x2, y2 in input pixels."""
        return target

    def classes_in(self, label: Any) -> set[int]:
        """Returns the class indices in a label, by which subsets are stratified."""
        return set()

    def label_problem(self, label: Any, classes: int) -> str | None:
        """Returns why a label of a user-defined data set with so many classes is invalid; None if it is valid."""
        floats = isinstance(label, float | np.floating) or (isinstance(label, np.ndarray) and label.dtype.kind == "f")
        return "the label has a value that is not finite" if floats and not np.isfinite(label).all() else None

    @abstractmethod
    def collate(
        self, images: list[np.ndarray], targets: list[Any], augmentation: Augmentation, rng: np.random.Generator | None
    ) -> Batch:
        """Makes a training batch of images (s, s, c) in [0, 255], uint8 or float32, and their targets. `rng` None: no
        augmentation."""

    def collate_images(
        self, images: list[np.ndarray], augmentation: Augmentation, rng: np.random.Generator | None
    ) -> Batch:
        """Makes a training batch of images without targets, for distillation. Arguments as in `collate`."""
        if rng is not None:
            empty = [np.zeros((0, 5), np.float32)] * len(images)
            images = [augment_image(image, empty[0], augmentation, rng)[0] for image in images]
            chance, count = augmentation.mosaic, range(len(images))
            images = [mosaic(images, empty, i, rng)[0] if rng.random() < chance else images[i] for i in count]
        return {"img": images_to_tensor(images)}

    def as_targets(self, predictions: Predictions, confidence: float) -> list[Any]:
        """Converts predictions to targets, one per image, for data without labels. Predictions of scored instances
        below `confidence` are left out. Raises UserError if the task does not support it."""
        remedy = f"the task {self.name} cannot use predictions in place of labels: give it a method as_targets"
        raise UserError("data.labels", False, remedy)

    def confident(self, predictions: Predictions, confidence: float) -> Predictions:
        """Returns the predictions without the scored instances below `confidence`; unchanged if there are no scores."""
        return predictions

    def draw(self, canvas: np.ndarray, target: Any, scale: float, classes: Sequence[str]) -> None:
        """Draws a target, or what `as_targets` makes of a prediction, on a uint8 RGB image in place, for the report.
        `scale`: pixels of the canvas per input pixel."""

    def agreements(self, expected: Predictions, obtained: Predictions, confidence: float) -> list[float]:
        """Returns how well the predictions of two models agree on each image, in [0, 1]; 1: they are the same. Scored
        instances below `confidence` are left out. Called only if `agreement` is not empty."""
        raise NotImplementedError

    @abstractmethod
    def values(self, predictions: Predictions) -> list[np.ndarray]:
        """Returns the values of predictions that must not be NaN."""

    @abstractmethod
    def confidence_shift(self, expected: Predictions, obtained: Predictions) -> float | None:
        """Returns the median change of confidence, in [0, 1], between two sets of predictions for the same images;
        None if the expected ones contain no confident prediction."""


@dataclass(frozen=True)
class PlainNetworkTask(SupervisedTask):
    """A task for which any module that maps images to outputs can be trained."""

    expected_output: ClassVar[str] = "a network returns (batch, …)"  # for error messages

    @abstractmethod
    def network_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Returns the scalar loss of float32 `outputs` for a batch."""

    @abstractmethod
    def distillation_loss(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """Returns a scalar distance between the float32 outputs of the trained network and of its teacher."""

    @abstractmethod
    def decode(self, outputs: Outputs) -> Predictions:
        """Converts raw outputs (b, …) to predictions, one per image. A network that returns several tensors has a tuple
        of outputs."""

    @abstractmethod
    def output_classes(self, output: object, images: int) -> int | None:
        """Returns the number of classes of a network's output for `images` images; None if the output does not fit
        this task."""


def images_to_tensor(images: list[np.ndarray]) -> Tensor:
    """Returns float32 (b, c, s, s) in [0, 1], in channels-last memory format, in which CPUs train fastest."""
    # NumPy takes a tenth of the CPU time of torch for this conversion.
    scaled = np.divide(np.stack(images), np.float32(255), dtype=np.float32)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2)


def box_batch(images: list[np.ndarray], boxes: list[np.ndarray]) -> Batch:
    """Returns the batch of images (s, s, c) with boxes (n, 5) of class, x1, y1, x2, y2 in pixels, one array per image:
    `img`, `cls` (m, 1), `bboxes` (m, 4), centre x, y, width, height as fractions of s, and `batch_idx` (m,)."""
    table = torch.from_numpy(np.concatenate(boxes))
    corners = table[:, 1:] / images[0].shape[0]
    image_index = np.repeat(np.arange(len(boxes), dtype=np.float32), [len(each) for each in boxes])
    return {
        "img": images_to_tensor(images),
        "cls": table[:, :1].clone(),
        "bboxes": torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1),
        "batch_idx": torch.from_numpy(image_index),
    }
