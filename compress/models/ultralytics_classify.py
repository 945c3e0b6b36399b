"""Image classifiers of the Ultralytics package (yolo26n-cls and relatives)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor, nn

from compress.models import ultralytics_blocks as blocks
from compress.models.classifier import LAST, cross_entropy
from compress.models.ultralytics_model import UltralyticsModel
from compress.product import Batch, Task, Teacher
from compress.training import float32


@dataclass(frozen=True)
class UltralyticsClassifier(UltralyticsModel):
    """`compress.product.Model` for networks that end in a Classify head."""

    task: Task = Task.classify

    def loss(self, net: nn.Module, batch: Batch, teacher: Teacher | None = None) -> Tensor:
        return cross_entropy(net, batch, teacher, _logits)

    def progress(self, net: nn.Module, share: float) -> None:
        """Cross-entropy stays the same all along."""

    def deployed(self, *, tail: bool = True) -> nn.Module:
        """Fused eval-mode copy giving probabilities (b, classes), as Ultralytics exports them."""
        copied = copy.deepcopy(self.net).float().eval()
        copied.fuse(verbose=False)
        last = copied.model[-1]
        last.decode = nn.Softmax(1)
        last.__class__ = _deployed_class()
        return copied.requires_grad_(False)

    def prunable(self) -> tuple[nn.Module, dict[str, str]]:
        net: Any = blocks.split_blocks(copy.deepcopy(self.net)).eval()
        last = {f"model.{len(net.model) - 1}.linear": LAST}
        return net, blocks.protected(net) | last | dict.fromkeys(self.protected, "model.protected")

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Probabilities (b, classes) as they are."""
        return outputs

    def kept_float(self) -> dict[str, str]:
        return {f"model.{len(self.net.model) - 1}.decode": "softmax of the classes: it needs fine steps near 0 and 1"}


def _logits(output: Any) -> Tensor:
    """Of a Classify head: logits in training mode, (probabilities, logits) in eval mode."""
    return float32(output[1] if isinstance(output, tuple) else output)


@cache
def _deployed_class() -> type:
    from ultralytics.nn.modules.head import Classify

    class DeployedClassify(Classify):
        """Its softmax is a module of its own, so that exported graphs show where it begins."""

        decode: Any  # a module in this class

        def forward(self, x: Any) -> Any:
            return self.decode(super().forward(x)[1])

    return DeployedClassify
