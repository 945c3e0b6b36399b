"""Interfaces of tasks.

`Task` suffices for pruning, saving and exporting a model. `SupervisedTask` adds labels, batches and a metric, which are
needed for training and evaluation. `PlainNetworkTask` adds loss and decoding for networks that have none of their own
(timm, `model=module`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from compress.tasks.augmentation import Augmentation
from compress.tasks.metric import Metric

Batch = dict[str, Tensor]
"""A training batch. `img`: float32 (b, c, s, s) in [0, 1], RGB. Further entries are defined by the task's `collate`."""


Predictions = Sequence[Any] | np.ndarray
"""One prediction per image, as the task's `decode` returns them."""


@dataclass(frozen=True)
class Task:
    """What a model predicts, for example boxes or classes.

    Attributes:
        name: name in configuration files, manifests and Ultralytics.
        published_imgsz: input side in pixels for which FLOPs of such models are usually published; None: no convention.
        path: import path of a user-defined task, stored in checkpoints; empty for the tasks of this package.
    """

    name: str
    published_imgsz: int | None = None
    path: str = ""

    def output_kind(self, *, end_to_end: bool, postprocessed: bool) -> str:
        """Returns the name of an exported file's output format, for manifest and bench kit.

        Args:
            end_to_end: the network selects the final detections itself.
            postprocessed: this selection is part of the exported file.
        """
        return self.name


@dataclass(frozen=True)
class SupervisedTask(Task):
    """A task with labels: its models can be trained and evaluated.

    Labels are those of `compress.data.Sample`. Targets are labels in the coordinates of the network's input.
    """

    metric: Metric = field(kw_only=True)

    def target(self, label: Any, size: tuple[int, int], imgsz: int) -> Any:
        """Converts a label to the coordinates of the letterboxed input.

        Args:
            label: the label of a sample.
            size: width and height of the original image, in pixels.
            imgsz: side of the square input, in pixels.
        """
        return label

    def classes_in(self, label: Any) -> set[int]:
        """Returns the class indices in a label, by which subsets are stratified."""
        return set()

    def label_problem(self, label: Any, classes: int) -> str | None:
        """Validates a label of a user-defined data set. Returns an error message, or None if the label is valid.

        Args:
            classes: number of classes of the data set.
        """
        floats = isinstance(label, float | np.floating) or (isinstance(label, np.ndarray) and label.dtype.kind == "f")
        return "the label has a value that is not finite" if floats and not np.isfinite(label).all() else None

    @abstractmethod
    def collate(
        self, images: list[np.ndarray], targets: list[Any], augmentation: Augmentation, rng: np.random.Generator | None
    ) -> Batch:
        """Makes a training batch.

        Args:
            images: (s, s, c) in [0, 255] each, uint8, or float32 of 16-bit files.
            targets: return value of `target` for each image.
            augmentation: random changes that the data set allows.
            rng: random generator for the augmentation; None: no augmentation.
        """

    @abstractmethod
    def values(self, predictions: Predictions) -> list[np.ndarray]:
        """Returns the values of predictions that must not be NaN."""

    @abstractmethod
    def confidence_shift(self, expected: Predictions, obtained: Predictions) -> float | None:
        """Returns the median change of confidence, in [0, 1], between two sets of predictions for the same images;
        None if the expected ones contain no confident prediction."""


@dataclass(frozen=True)
class PlainNetworkTask(SupervisedTask):
    """A task for which any module that maps images to outputs can be trained.

    Attributes:
        expected_output: description of a network's output, for error messages.
    """

    expected_output: ClassVar[str] = "a network returns (batch, …)"

    @abstractmethod
    def network_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Returns the scalar loss of float32 `outputs` for a batch."""

    @abstractmethod
    def distillation_loss(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """Returns a scalar distance between the float32 outputs of the trained network and of its teacher."""

    @abstractmethod
    def decode(self, outputs: np.ndarray) -> Predictions:
        """Converts raw outputs (b, …) to predictions, one per image."""

    @abstractmethod
    def output_classes(self, output: object, images: int) -> int | None:
        """Returns the number of classes of a network's output for `images` images; None if the output does not fit
        this task."""


def images_to_tensor(images: list[np.ndarray]) -> Tensor:
    """Returns float32 (b, c, s, s) in [0, 1], in channels-last memory format, in which CPUs train fastest."""
    # NumPy takes a tenth of the CPU time of torch for this conversion.
    scaled = np.divide(np.stack(images), np.float32(255), dtype=np.float32)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2)
