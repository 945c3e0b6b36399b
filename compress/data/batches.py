"""Training batches, shuffled and prefetched in a background thread, and batches of images in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import cv2
import numpy as np

from compress.data.dataset import Split, supervised
from compress.errors import UserError
from compress.tasks import Batch

AHEAD = 2  # batches prefetched beyond the next one


class Batches(Iterator[Batch]):
    """Iterator over the training batches of one epoch.

    The order depends only on (seed, epoch), and the augmentation of a batch only on (seed, epoch, index of the batch).
    A resumed run therefore sees the same batches as an uninterrupted one.
    """

    def __init__(self, split: Split, *, batch: int, seed: int, epoch: int, augment: bool) -> None:
        if len(split) < batch:
            raise UserError(
                "finetune.batch", batch, f"set at most {len(split)}: the split `{split.name}` has {len(split)} images"
            )
        if cv2.getNumThreads() != 1:  # images are small, and training needs the cores
            cv2.setNumThreads(1)  # only once: the worker of an earlier epoch may be using the pool
        self._split, self._task, self._augment = split, supervised(split), augment
        self._key = (seed, epoch)
        count = len(split) // batch
        order = np.random.default_rng(self._key).permutation(len(split))
        self._batches = order[: count * batch].reshape(count, batch)
        self._next = 0  # index of the next batch to prefetch
        self._pending: deque[Future[Batch]] = deque()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def __iter__(self) -> Self:
        return self

    def __len__(self) -> int:
        """Number of batches in the whole epoch, including those already returned."""
        return len(self._batches)

    def __next__(self) -> Batch:
        while len(self._pending) <= AHEAD and self._next < len(self._batches):
            self._pending.append(self._worker.submit(self._make, self._next))
            self._next += 1
        if not self._pending:
            self._worker.shutdown(wait=False)
            raise StopIteration
        return self._pending.popleft().result()

    def skip(self, count: int) -> None:
        """Skips the next `count` batches without making them."""
        self._next += count - len(self._pending)
        for future in self._pending:
            future.cancel()
        self._pending.clear()

    def close(self) -> None:
        """Stops the background thread and drops prefetched batches."""
        self.skip(len(self._pending))
        self._worker.shutdown(wait=False)

    def _make(self, index: int) -> Batch:
        indices = self._batches[index].tolist()
        images = [self._split.image(i) for i in indices]
        targets = [self._split.target(i) for i in indices]
        rng = np.random.default_rng((*self._key, index)) if self._augment else None
        return self._task.collate(images, targets, self._split.augmentation, rng)


def batches(split: Split, *, batch: int, seed: int, epoch: int, augment: bool) -> Batches:
    """Returns the training batches of one epoch, shuffled by (seed, epoch). The last partial batch is dropped.

    Raises:
        UserError: the split has fewer images than one batch; while iterating: an image cannot be decoded.
    """
    return Batches(split, batch=batch, seed=seed, epoch=epoch, augment=augment)


def images(split: Split, *, batch: int = 1) -> Iterator[np.ndarray]:
    """Yields float32 (b, c, s, s) batches in [0, 1] in the order of the split. The last batch may be smaller."""
    count = len(split)
    for start in range(0, count, batch):
        pixels = np.stack([split.image(i) for i in range(start, min(start + batch, count))])
        yield np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
