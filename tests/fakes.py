"""Models and data for tests that need no real ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from compress.capabilities import TopK, example_image, tensor_digest
from compress.tasks import CLASSIFY, Predictions, Task
from compress.tasks.mean_ap import Detections


@dataclass(frozen=True)
class FakeModel:
    """A model (`Evaluable`, `Checkpointable`) around any network; predictions are its raw outputs."""

    net: nn.Module
    task: Task = CLASSIFY
    imgsz: int = 16
    channels: int = 3
    classes: tuple[str, ...] = ("a", "b", "c")
    postprocess: TopK | None = None
    exclusions: Mapping[str, str] = field(default_factory=dict)
    stride: int = 1

    def with_net(self, net: nn.Module) -> Self:
        return replace(self, net=net)

    def with_imgsz(self, imgsz: int) -> Self:
        return replace(self, imgsz=imgsz)

    def identity(self) -> str:
        return tensor_digest(self.net)

    def deployed(self, *, postprocess: bool = True) -> nn.Module:
        return copy.deepcopy(self.net).eval().requires_grad_(False)

    def metadata(self) -> dict[str, str]:
        return {"names": str(dict(enumerate(self.classes)))}

    def quantization_exclusions(self) -> dict[str, str]:
        return dict(self.exclusions)

    def example_input(self, batch: int = 1) -> Tensor:
        return example_image(batch, self.channels, self.imgsz)

    def constructor(self) -> dict[str, Any]:
        return {}

    def decode(self, outputs: np.ndarray) -> Predictions:
        return outputs

    def answer(self, images: np.ndarray) -> np.ndarray:
        """Raw outputs of the deployed network, (b, …)."""
        with torch.no_grad():
            return self.deployed()(torch.from_numpy(images)).numpy()


def detections(*rows: tuple[float, ...]) -> Detections:
    """Rows of class, score, x1, y1, x2, y2."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, 2:], table[:, 1], table[:, 0].astype(np.int64))


def truth(*rows: tuple[float, ...]) -> np.ndarray:
    """Rows of class, x1, y1, x2, y2."""
    return np.array(rows, np.float32).reshape(-1, 5)


def random_case(
    images: int, classes: int, objects: int, extra: int, seed: int = 0
) -> tuple[list[Detections], list[np.ndarray]]:
    """Detections and ground truths of some images: up to `2 * objects` objects in each, detected up to three times and
    not exactly, and `extra` detections of nothing."""
    rng = np.random.default_rng(seed)
    found, truths = [], []
    for _ in range(images):
        n = rng.integers(0, 2 * objects)
        corner, size = rng.uniform(0, 200, (n, 2)), rng.uniform(8, 50, (n, 2))
        boxes, labels = np.concatenate([corner, corner + size], 1), rng.integers(classes, size=n)
        truths.append(np.concatenate([labels[:, None], boxes], 1).astype(np.float32))
        copies = np.repeat(np.arange(n), rng.integers(0, 4, n))
        near = boxes[copies] + rng.normal(0, 3, (len(copies), 4))
        corner, size = rng.uniform(0, 200, (extra, 2)), rng.uniform(8, 50, (extra, 2))
        everything = np.concatenate([near, np.concatenate([corner, corner + size], 1)])
        all_labels = np.concatenate([labels[copies], rng.integers(classes, size=extra)])
        scores = np.concatenate([rng.beta(3, 2, len(copies)), rng.beta(1, 4, extra)])
        order = np.argsort(-scores, kind="stable")[:300]
        found.append(Detections(everything[order], scores[order], all_labels[order]))
    return found, truths


def small_classifier() -> nn.Sequential:
    """Two convolutions and a linear layer `6`, images (b, 3, s, s) to (b, 3)."""
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))
