"""The normalisation that a classifier was trained with, as the first operation of its network.

It is part of the network, so that training, pruning, every exported file and every count has it, and whoever deploys a
file gives it pixels in [0, 1] and cannot apply a wrong one. It is not folded into the first convolution: with zero
padding that would be inexact at the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compress.errors import UserError

INNER = "net."  # in front of the names of a network's modules and tensors once it is wrapped


class Statistics(NamedTuple):
    """Of pixels in [0, 1], a number for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def facts(self) -> dict[str, list[float]]:
        return {"mean": list(self.mean), "std": list(self.std)}


class Normalised(nn.Module):
    """`net` on (x - mean) / std, x (b, channels, s, s) in [0, 1]."""

    mean: Tensor
    factor: Tensor

    def __init__(self, net: nn.Module, statistics: Statistics) -> None:
        super().__init__()
        mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in statistics)
        # Not in the state dict: the tensors of the network are what a library saves, the rest is in the constructor.
        self.register_buffer("mean", mean.float(), persistent=False)
        # Multiplied, because integer runtimes such as LiteRT have no INT8 division.
        self.register_buffer("factor", (1 / std).float(), persistent=False)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) * self.factor)


def statistics(mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> Statistics | None:
    """mean and std for an input of `channels`; None where there are none, or where they change nothing. Grey images
    have the average of what is known for RGB.

    Raises:
        UserError: another number of values than channels.
    """
    if mean is None or std is None:
        return None
    found = []
    for key, values in (("mean", mean), ("std", std)):
        if channels == 1 and len(values) == 3:
            values = [sum(values) / len(values)]
        elif len(values) == 1:
            values = list(values) * channels
        if len(values) != channels:
            raise UserError(f"model.{key}", list(values), f"set 1 number, or {channels}: one for each channel")
        found.append(tuple(float(value) for value in values))
    made = Statistics(*found)
    return None if set(made.mean) == {0.0} and set(made.std) == {1.0} else made


def wrap(net: nn.Module, statistics: Statistics | None) -> nn.Module:
    """`net` behind its normalisation; itself where there is none."""
    return net if statistics is None else Normalised(net, statistics)


def inner(net: nn.Module) -> nn.Module:
    """The network without `Normalised` around it."""
    return net.net if isinstance(net, Normalised) else net


def module_names(net: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Names of modules of the network that was wrapped, as the wrapped one has them."""
    known = dict(net.named_modules())
    return (
        tuple(name if name in known else INNER + name for name in names) if isinstance(net, Normalised) else (*names,)
    )


def bare(tensors: dict[str, Tensor], constructor: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors of a checkpoint by the names that the network has without `Normalised` around it."""
    if constructor.get("mean") is None:
        return tensors
    return {name.removeprefix(INNER): value for name, value in tensors.items()}
