"""What the rest of the package asks of a task.

`Task` alone is enough to prune, save and export a model. `SupervisedTask` adds labels, batches and a metric, which
training and evaluation need. `PlainNetworkTask` adds loss and decoding for networks that bring none
themselves (timm, `model=module`).
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
    """What a model is for.

    Attributes:
        name: as configuration files, manifests and Ultralytics write it.
        published_imgsz: input side in pixels at which FLOPs of such models are usually published; None: no convention.
        path: import path of a user's own task, which checkpoints remember; empty for those of this package.
    """

    name: str
    published_imgsz: int | None = None
    path: str = ""

    def output_kind(self, *, end_to_end: bool, postprocessed: bool) -> str:
        """Name of an exported file's output format, for manifest and bench kit.

        Args:
            end_to_end: the network selects its own detections.
            postprocessed: that selection is part of the file.
        """
        return self.name


@dataclass(frozen=True)
class SupervisedTask(Task):
    """A task with labels: its models can be trained and evaluated. Labels are those of `compress.data.Sample`; targets
    are labels in the coordinates of the network's input."""

    metric: Metric = field(kw_only=True)  # that accuracies are reported in

    def target(self, label: Any, size: tuple[int, int], imgsz: int) -> Any:
        """The target that a label becomes in the letterboxed input.

        Args:
            label: as the data set gives it.
            size: width and height of the original image, in pixels.
            imgsz: side of the square input, in pixels.
        """
        return label

    def classes_in(self, label: Any) -> set[int]:
        """Class numbers that occur in a label; subsets are stratified by them."""
        return set()

    def label_problem(self, label: Any, classes: int) -> str | None:
        """What is wrong with a label of a user's own data set, for an error message; None where nothing is.

        Args:
            classes: how many classes the data set has.
        """
        return None

    @abstractmethod
    def collate(
        self, images: list[np.ndarray], targets: list[Any], augmentation: Augmentation, rng: np.random.Generator | None
    ) -> Batch:
        """The training batch of some images.

        Args:
            images: uint8 (s, s, c) each.
            targets: what `target` returned for each image.
            augmentation: the random changes that the data allows.
            rng: source of all randomness; None: no augmentation.
        """

    def shard(self, batch: Batch, rank: int, world: int) -> Batch:
        """The part of a batch that process `rank` of `world` trains on; every process gets as many images."""
        count = len(batch["img"]) // world
        return {key: value[rank * count : (rank + 1) * count] for key, value in batch.items()}

    @abstractmethod
    def values(self, predictions: Predictions) -> list[np.ndarray]:
        """The numbers of predictions that must not be NaN."""

    @abstractmethod
    def confidence_shift(self, expected: Predictions, obtained: Predictions) -> float | None:
        """Median change of confidence, in [0, 1], between two sets of predictions on the same images. None where the
        expected predictions are confident of nothing."""


@dataclass(frozen=True)
class PlainNetworkTask(SupervisedTask):
    """A task whose networks need no code of their own: any module from images to outputs can be trained for it.

    Attributes:
        expected_output: what a network returns, for error messages.
    """

    expected_output: ClassVar[str] = "a network returns (batch, …)"

    @abstractmethod
    def network_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Scalar loss of float32 `outputs` on a batch."""

    @abstractmethod
    def distillation_loss(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """Scalar distance between float32 outputs of the trained network and of its teacher."""

    @abstractmethod
    def decode(self, outputs: np.ndarray) -> Predictions:
        """Predictions for raw outputs (b, …), one per image."""

    @abstractmethod
    def output_classes(self, output: object, images: int) -> int | None:
        """The number of classes that a network's output for `images` images implies; None where it is not an output of
        this task."""


def images_to_tensor(images: list[np.ndarray]) -> Tensor:
    """float32 (b, c, s, s) in [0, 1]; channels-last in memory, as images are stored and as CPUs train fastest."""
    # NumPy converts in a tenth of the processor time that torch takes.
    scaled = np.divide(np.stack(images), np.float32(255), dtype=np.float32)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2)
