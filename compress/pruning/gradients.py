"""Gradients of the loss on training data, for importances that need them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.tasks import Batch
from compress.training.placement import CPU
from compress.training.precision import autocast


def accumulate_gradients(
    net: nn.Module,
    loss: Callable[[nn.Module, Batch], Tensor],
    batches: Iterable[Batch],
    *,
    squared: bool = False,
    format: str = "fp32",
    device: torch.device = CPU,
) -> None:
    """Stores the sum of the loss gradients over `batches` in `.grad` of every parameter of `net`.

    BatchNorm layers use their running statistics and do not update them, as in the deployed network. Raises
    FloatingPointError if a loss is not finite.

    Args:
        loss: its sum is differentiated.
        squared: sum the squares of each batch's gradients instead.
        format: number format of the loss, "fp32", "bf16" or "fp16".
        device: where to compute. `net` and its gradients are on the CPU afterwards.
    """
    training = net.training
    net.to(device).train()  # detectors return the inputs of their loss in training mode only
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    sums: dict[nn.Parameter, Tensor] = {}
    net.zero_grad(set_to_none=True)
    for batch in batches:
        batch = {key: value.to(device) for key, value in batch.items()}
        with autocast(device, format):
            value = loss(net, batch).sum()
        if not torch.isfinite(value):
            raise FloatingPointError(f"loss is not finite ({value.item()})")
        value.backward()
        if squared:
            for parameter in net.parameters():
                if parameter.grad is not None:
                    sums[parameter] = sums.get(parameter, 0) + parameter.grad.square()
            net.zero_grad(set_to_none=True)
    for parameter in net.parameters():
        if squared:
            parameter.grad = sums.get(parameter)
        if parameter.grad is None:  # the loss does not depend on it, e.g. a branch that is not trained
            parameter.grad = torch.zeros_like(parameter)
    net.train(training).cpu()
