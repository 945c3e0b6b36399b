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
