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


def small_classifier() -> nn.Sequential:
    """Two convolutions and a linear layer `6`, images (b, 3, s, s) to (b, 3)."""
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))
