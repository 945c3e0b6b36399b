"""Small residual CNNs for small images: `SmallCNN` of `recipe=digits`, `ResNet20` of `recipe=fashion_mnist`."""

from __future__ import annotations

import itertools

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


class ResNet20(nn.Module):
    """The network of 20 layers of He et al., arXiv:1512.03385, section 4.2: maps images (b, channels, s, s), s >= 4, to
    logits (b, classes). Where the width changes, the shortcut is a 1x1 convolution, since the zeros that the paper
    appends there cannot be pruned."""

    def __init__(self, classes: int = 10, width: int = 16, channels: int = 1) -> None:
        super().__init__()
        self.stem = _convolution(channels, width)
        widths = [width] * 4 + [2 * width] * 3 + [4 * width] * 3
        blocks = (_Block(before, after) for before, after in itertools.pairwise(widths))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut. If `outputs` differs from `inputs`, the size is halved."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.first = _convolution(inputs, outputs, stride)
        self.second = _convolution(outputs, outputs)[:2]  # the sum is rectified instead
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.shortcut(x) + self.second(self.first(x)))
