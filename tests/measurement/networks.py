"""Small networks to count."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class Fn(nn.Module):
    """A function of a tensor."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)
