"""Gradients of the loss on training data, for importances that need them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.tasks import Batch


def accumulate_gradients(
    net: nn.Module,
    loss: Callable[[nn.Module, Batch], Tensor],
    batches: Iterable[Batch],
    *,
    squared: bool = False,
    bfloat16: bool = False,
) -> None:
    """Stores the sum of the loss gradients over `batches` in `.grad` of every parameter of `net`.

    BatchNorm layers use their running statistics and do not update them, as in the deployed network. Raises
    FloatingPointError if a loss is not finite.

    Args:
        loss: its sum is differentiated.
        squared: sum the squares of each batch's gradients instead.
        bfloat16: compute the loss under autocast to bfloat16.
    """
    training = net.training
    net.train()  # detectors return the inputs of their loss in training mode only
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    sums: dict[nn.Parameter, Tensor] = {}
    net.zero_grad(set_to_none=True)
    for batch in batches:
        with torch.autocast(batch["img"].device.type, torch.bfloat16, enabled=bfloat16):
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
    net.train(training)
