"""Image classifiers of the Ultralytics package, such as yolo26n-cls."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor, nn

from compress.capabilities import Teacher
from compress.models import ultralytics_blocks as blocks
from compress.models.plain_network import LAST_LAYER, plain_loss
from compress.models.ultralytics_model import UltralyticsModel
from compress.tasks import CLASSIFY, Batch, Outputs, Task
from compress.tasks.outputs import first
from compress.training.precision import float32


@dataclass(frozen=True)
class UltralyticsClassifier(UltralyticsModel):
    """A model for networks with a Classify head; also `Trainable` and `Evaluable`."""

    task: Task = CLASSIFY

    def loss(self, net: nn.Module, batch: Batch, teacher: Teacher | None = None, parts: int = 1) -> Tensor:
        return plain_loss(CLASSIFY, net, batch, teacher, _logits)

    def output_signature(self) -> tuple[object, ...]:
        return ("classifier",)

    def deployed(self, *, postprocess: bool = True) -> nn.Module:
        """Fused eval-mode copy returning probabilities (b, classes), as Ultralytics exports them."""
        copied = copy.deepcopy(self.net).float().eval()
        copied.fuse(verbose=False)
        last = copied.model[-1]
        last.decode = nn.Softmax(1)
        last.__class__ = _deployed_class()
        return copied.requires_grad_(False)

    def prunable(self) -> tuple[nn.Module, dict[str, str]]:
        net: Any = blocks.split_blocks(copy.deepcopy(self.net)).eval()
        last = {f"model.{len(net.model) - 1}.linear": LAST_LAYER}
        return net, blocks.protected(net) | last | dict.fromkeys(self.protected, "model.protected")

    def decode(self, outputs: Outputs) -> np.ndarray:
        """Returns the probabilities (b, classes) unchanged."""
        return first(outputs)

    def quantization_exclusions(self) -> dict[str, str]:
        return {f"model.{len(self.net.model) - 1}.decode": "softmax: it needs a fine quantization step near 0 and 1"}


def _logits(output: Any) -> Tensor:
    """Logits from a Classify head, which returns (probabilities, logits) in eval mode."""
    return float32(output[1] if isinstance(output, tuple) else output)


@cache
def _deployed_class() -> type:
    from ultralytics.nn.modules.head import Classify

    class DeployedClassify(Classify):
        """Classify with its softmax as a separate module, so that exported graphs show where it begins."""

        decode: Any  # a module in this class

        def forward(self, x: Any) -> Any:
            return self.decode(super().forward(x)[1])

    return DeployedClassify
