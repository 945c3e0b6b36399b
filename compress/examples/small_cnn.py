"""A small residual CNN for small images. `recipe=digits` trains and compresses it in about a minute."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class SmallCNN(nn.Module):
    """Maps images (b, channels, s, s), s >= 16, to logits (b, classes). Has residual sums and a concatenation."""

    def __init__(self, classes: int = 10, width: int = 32, channels: int = 3) -> None:
        super().__init__()
        self.stem = _convolution(channels, width, 2)
        self.first = nn.Sequential(_convolution(width, width), _convolution(width, width))
        self.down = _convolution(width, 2 * width, 2)
        self.second = nn.Sequential(_convolution(2 * width, 2 * width), _convolution(2 * width, 2 * width))
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.down(x + self.first(x))
        x = torch.cat((x, x + self.second(x)), dim=1)
        return self.head(x.mean(dim=(2, 3)))


class SmallUNet(nn.Module):
    """Maps images (b, channels, s, s), s a multiple of 8, to logits (b, classes, s, s). A U-Net (Ronneberger et al.,
    arXiv:1505.04597) with batch normalisation that computes at half the resolution and less."""

    def __init__(self, classes: int = 2, width: int = 32, channels: int = 3) -> None:
        super().__init__()
        self.stem = _convolution(channels, width, 2)
        self.first = _convolution(width, width)
        self.down = nn.Sequential(_convolution(width, 2 * width, 2), _convolution(2 * width, 2 * width))
        self.bottom = nn.Sequential(_convolution(2 * width, 4 * width, 2), _convolution(4 * width, 4 * width))
        self.up = _convolution(6 * width, 2 * width)
        self.last = _convolution(3 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.first(self.stem(x))
        middle = self.down(fine)
        coarse = _enlarged(self.bottom(middle))
        coarse = _enlarged(self.up(torch.cat((middle, coarse), dim=1)))
        return _enlarged(self.head(self.last(torch.cat((fine, coarse), dim=1))), "bilinear")


def _enlarged(x: Tensor, mode: str = "nearest") -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode=mode)
