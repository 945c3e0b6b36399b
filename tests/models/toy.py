"""A user's own network, as `model.target` would name it."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from compress.config import ModelConfig
from compress.models import build
from compress.models.plain_network import PlainNetwork
from compress.tasks import Task

Network = TypeVar("Network", bound=nn.Module)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False), nn.BatchNorm2d(2 * width),
            nn.Conv2d(2 * width, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Net(nn.Module):
    """Residual sums, depthwise layers and a concatenation: what couples channels."""

    def __init__(self, classes: int = 10, width: int = 16, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.one, self.two = Residual(width), Residual(width)
        self.side = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat((self.two(self.one(x)), self.side(x)), 1)
        return self.head(x.mean((2, 3)))


def broken() -> nn.Module:
    raise RuntimeError("no weights today")


def not_a_module() -> int:
    return 3


class Segmenter(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 2, 1)


def layer(net: nn.Module, name: str, kind: type[Network]) -> Network:
    """The submodule `name`, of the class `kind`."""
    result = net.get_submodule(name)
    assert isinstance(result, kind)
    return result


def plain(config: ModelConfig, classes: tuple[str, ...] | None = None, task: Task | None = None) -> PlainNetwork:
    """`build`, for a network of the families module and timm."""
    model = build(config, classes, task)
    assert isinstance(model, PlainNetwork)
    return model


def randomise(net: Network, seed: int = 0) -> Network:
    """Random BatchNorm statistics and scales, so that ignoring them would show."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5), (module.bias, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5),
            ):  # fmt: skip
                assert tensor is not None
                tensor.data.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return net


def enliven(net: Network, example: Tensor) -> Network:
    """`randomise`, but with the statistics of noise images: signals neither fade nor grow on their way through a deep
    network, so that all its outputs differ and the best of them come in a certain order."""
    norms = [module for module in randomise(net).modules() if isinstance(module, nn.BatchNorm2d)]
    usual = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.rand(8, *example.shape[1:], generator=torch.Generator().manual_seed(0)))
    for norm in norms:
        norm.momentum = usual
    return net
