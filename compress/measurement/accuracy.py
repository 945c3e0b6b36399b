"""One evaluation for torch models and artifacts, so that their accuracies are comparable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from compress.errors import TargetFailed, UserError
from compress.tasks import Outputs, Predictions, SupervisedTask
from compress.tasks.metric import Accuracy
from compress.tasks.outputs import from_torch
from compress.training.placement import CPU

Predict = Callable[[np.ndarray], Outputs]


class Split(Protocol):
    """Evaluation data. `image(i)`: (s, s, c) in [0, 255], RGB. `target(i)`: float32 (n, 5) with class, x1, y1, x2, y2
    in pixels, or an int class."""

    def __len__(self) -> int: ...

    def image(self, index: int, /) -> np.ndarray: ...

    def target(self, index: int, /) -> Any: ...


def predictor(net: nn.Module, device: torch.device = CPU) -> Predict:
    """Wraps a torch network for `evaluate`. It is moved to `device`."""
    net.to(device)
    return torch.inference_mode()(lambda images: from_torch(net(torch.from_numpy(images).to(device))))


def evaluate(
    predict: Predict,
    decode: Callable[[Outputs], Predictions],
    split: Split,
    task: SupervisedTask,
    classes: Sequence[str],
    *,
    batch: int = 1,
    progress: str = "",
) -> Accuracy:
    """Accuracy of `decode(predict(images))` on the whole split.

    Args:
        predict: contiguous float32 (b, c, s, s) in [0, 1] to raw outputs.
        decode: raw outputs to the task's predictions, one per image.
        batch: images per call; the last call may have fewer.
        progress: label of the progress bar, which is drawn on terminals only; empty: no bar.

    Raises:
        UserError: the split is empty, or none of its images has ground truth.
        TargetFailed: a prediction is NaN, or their number is not that of the images.
    """
    if len(split) == 0:
        raise UserError("data", "0 validation images", "use a data set with validation images")
    outputs = predictions(predict, decode, split, task, batch=batch, progress=progress)
    return task.metric.evaluate(outputs, [split.target(index) for index in range(len(split))], classes)


def predictions(
    predict: Predict,
    decode: Callable[[Outputs], Predictions],
    split: Split,
    task: SupervisedTask,
    *,
    batch: int = 1,
    progress: str = "",
) -> list[Any]:
    """`decode(predict(images))` for each image of the split. Arguments and errors are those of `evaluate`."""
    outputs: list[Any] = []
    with tqdm(total=len(split), desc=progress, unit="img", disable=None if progress else True) as bar:
        for start in range(0, len(split), batch):
            indices = range(start, min(start + batch, len(split)))
            planes = np.stack([split.image(index) for index in indices]).transpose(0, 3, 1, 2)
            decoded = decode(predict(np.divide(np.ascontiguousarray(planes), 255, dtype=np.float32)))
            if len(decoded) != len(indices):
                raise TargetFailed(f"{len(decoded)} predictions for {len(indices)} images")
            if any(np.isnan(array).any() for array in task.values(decoded)):
                raise TargetFailed("predictions contain NaN: the graph is numerically broken in this runtime")
            outputs.extend(decoded)
            bar.update(len(indices))
    return outputs
