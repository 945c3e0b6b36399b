"""Input normalisation as the first operation of a network, so that exported files take pixels in [0, 1] and users
cannot apply the wrong one. It is not folded into the first convolution, because with zero padding that would be inexact
at the border."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compress.errors import UserError

INNER = "net."  # prefix of the module and tensor names of a wrapped network


class Statistics(NamedTuple):
    """Mean and standard deviation of pixels in [0, 1], one value per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def as_dict(self) -> dict[str, list[float]]:
        return {"mean": list(self.mean), "std": list(self.std)}


class Normalised(nn.Module):
    """Applies `net` to (x - mean) / std, for x (b, channels, s, s) in [0, 1]."""

    mean: Tensor
    factor: Tensor

    def __init__(self, net: nn.Module, statistics: Statistics) -> None:
        super().__init__()
        mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in statistics)
        # Not in the state dict, which holds only the network's own tensors; the constructor has these values.
        self.register_buffer("mean", mean.float(), persistent=False)
        # Multiplied rather than divided, because integer runtimes such as LiteRT have no INT8 division.
        self.register_buffer("factor", (1 / std).float(), persistent=False)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) * self.factor)


def statistics(mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> Statistics | None:
    """Mean and std for an input of `channels`; None if they are not set or change nothing. A single value applies to
    all channels; greyscale input gets the average of RGB values. Raises UserError for any other number of values."""
    if mean is None or std is None:
        return None
    per_channel: list[tuple[float, ...]] = []
    for key, values in (("mean", mean), ("std", std)):
        if channels == 1 and len(values) == 3:
            values = [sum(values) / len(values)]
        elif len(values) == 1:
            values = list(values) * channels
        if len(values) != channels:
            raise UserError(f"model.{key}", list(values), f"set 1 number, or {channels}: one for each channel")
        per_channel.append(tuple(map(float, values)))
    result = Statistics(*per_channel)
    return None if set(result.mean) == {0.0} and set(result.std) == {1.0} else result


def inner(net: nn.Module) -> nn.Module:
    """The network without its `Normalised` wrapper."""
    return net.net if isinstance(net, Normalised) else net


def module_names(net: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Converts module names of the unwrapped network to names in `net`, which may be wrapped."""
    if not isinstance(net, Normalised):
        return tuple(names)
    known = dict(net.named_modules())
    return tuple(name if name in known else INNER + name for name in names)


def bare(tensors: dict[str, Tensor], constructor: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors of a checkpoint, with the names they have without the `Normalised` wrapper."""
    if constructor.get("mean") is None:
        return tensors
    return {name.removeprefix(INNER): value for name, value in tensors.items()}
