"""What the loss says about each weight, for importances that use data."""

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
    """Leaves the sum over `batches` of the loss gradients in `.grad` of every parameter of `net`; or, `squared`, that
    of their squares.

    BatchNorms use their running statistics, which stay as they are: the gradient is that of the network as deployed.

    Args:
        squared: sum the squares.
        bfloat16: compute the loss under autocast to bfloat16.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    training = net.training
    net.train()  # detectors give what their loss needs in this mode only
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    sums: dict[nn.Parameter, Tensor] = {}
    net.zero_grad(set_to_none=True)
    for batch in batches:
        with torch.autocast(batch["img"].device.type, torch.bfloat16, enabled=bfloat16):
            value = loss(net, batch).sum()
        if not torch.isfinite(value):
            raise FloatingPointError(f"loss ({value.item()}) not finite")
        value.backward()
        if squared:
            for parameter in net.parameters():
                if parameter.grad is not None:
                    sums[parameter] = sums.get(parameter, 0) + parameter.grad.square()
            net.zero_grad(set_to_none=True)
    for parameter in net.parameters():
        if squared:
            parameter.grad = sums.get(parameter)
        if parameter.grad is None:  # out of the loss's reach, such as a branch that is not trained
            parameter.grad = torch.zeros_like(parameter)
    net.train(training)
