"""A network with most kinds of products."""

from __future__ import annotations

from torch import Tensor, nn


class Mixed(nn.Module):
    """Maps images (1, 3, s, s) to (1, n, 5). It has convolutions of all kinds, an activation function of two nodes,
    attention and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU()
        self.deep, self.up = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ConvTranspose2d(8, 8, 2, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.up(self.act(self.deep(self.act(self.stem(image)))))
        x = nn.functional.max_pool2d(x, 2).flatten(2).transpose(1, 2)
        return self.head((x @ x.transpose(1, 2)).softmax(2) @ x)
