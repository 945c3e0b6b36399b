"""A task that a tiny network learns in seconds: is the left or the right half of an image bright?"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from compress.tasks import Batch

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
