"""A task that a tiny network learns in seconds: is the left or the right half of an image bright?"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.tasks import Batch
from compress.training.precision import float32
from compress.training.schedule import Schedule

BATCH, BATCHES = 8, 5  # batches an epoch


def epoch(number: int) -> Iterator[Batch]:
    """Bright left halves against bright right halves, in noise."""
    generator = torch.Generator().manual_seed(100 + number)
    for _ in range(BATCHES):
        labels = torch.randint(0, 2, (BATCH,), generator=generator)
        images = 0.3 * torch.rand(BATCH, 1, 8, 8, generator=generator)
        images[labels == 0, :, :, :4] += 0.3
        images[labels == 1, :, :, 4:] += 0.3
        yield {"img": images, "cls": labels}


class HalvesStream:
    """An endless stream of the parts that `Halves.start` selects. `waited` is what a test says."""

    def __init__(self, number: int, index: int, part: tuple[int, int], accumulate: int) -> None:
        self.waited, self.closed = 0.0, False
        self._parts = self._all(number, index, part, accumulate)

    def _all(self, number: int, index: int, part: tuple[int, int], accumulate: int) -> Iterator[Batch]:
        rank, world = part
        while True:
            for batch in list(epoch(number))[index:]:
                slices = {key: value.chunk(world * accumulate) for key, value in batch.items()}
                for k in range(rank * accumulate, (rank + 1) * accumulate):
                    yield {key: value[k] for key, value in slices.items()}
            number, index = number + 1, 0

    def __iter__(self) -> HalvesStream:
        return self

    def __next__(self) -> Batch:
        assert not self.closed
        return next(self._parts)

    def close(self) -> None:
        self.closed = True


class Halves:
    """The batches of `epoch`, as `compress.training.engine.Batches`."""

    def __init__(self) -> None:
        self.streams: list[HalvesStream] = []

    def __len__(self) -> int:
        return BATCHES

    def start(self, epoch: int, index: int, part: tuple[int, int], accumulate: int) -> HalvesStream:
        self.streams.append(HalvesStream(epoch, index, part, accumulate))
        return self.streams[-1]


class Tiny(nn.Sequential):
    """Convolution, BatchNorm and Dropout: weights, running statistics and random numbers, all to be kept."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 8, 3, 2),
            nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(8 * 9, 2),
        )  # fmt: skip


def tiny(seed: int = 0, width: int = 4) -> Tiny:
    torch.manual_seed(seed)
    return Tiny(width)


def loss(net: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(float32(net(batch["img"])), batch["cls"])


def schedule(**changes: Any) -> Schedule:
    return replace(Schedule(12 * BATCH, BATCH, 0.05, format="fp32", ema=0.9), **changes)


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def interrupt_at(step: int) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss, with a Ctrl-C in the middle of a step (from 1)."""
    calls = 0

    def interrupted(net: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(net, batch)

    return interrupted
