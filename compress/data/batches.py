"""Batches for training, made ahead in a background thread, and plain image batches in order."""

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

AHEAD = 2  # batches made before they are asked for


class Batches(Iterator[Batch]):
    """One epoch of training batches; `skip` passes over batches without making them.

    The order depends on (seed, epoch) alone and each batch on (seed, epoch, its number), so a resumed run sees what an
    uninterrupted one would have seen.
    """

    def __init__(self, split: Split, *, batch: int, seed: int, epoch: int, augment: bool) -> None:
        if len(split) < batch:
            raise UserError(
                "finetune.batch", batch, f"the split `{split.name}` has {len(split)} images, fewer than that"
            )
        if cv2.getNumThreads() != 1:  # images are small, and the cores belong to the training
            cv2.setNumThreads(1)  # once: an earlier epoch's worker may be using the pool
        self._split, self._task, self._augment = split, supervised(split), augment
        self._key = (seed, epoch)
        count = len(split) // batch
        order = np.random.default_rng(self._key).permutation(len(split))
        self._batches = order[: count * batch].reshape(count, batch)
        self._issued = 0
        self._pending: deque[Future[Batch]] = deque()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def __iter__(self) -> Self:
        return self

    def __len__(self) -> int:
        """Batches of the whole epoch."""
        return len(self._batches)

    def __next__(self) -> Batch:
        while len(self._pending) <= AHEAD and self._issued < len(self._batches):
            self._pending.append(self._worker.submit(self._make, self._issued))
            self._issued += 1
        if not self._pending:
            self._worker.shutdown(wait=False)
            raise StopIteration
        return self._pending.popleft().result()

    def skip(self, count: int) -> None:
        """Passes over the next `count` batches."""
        self._issued += count - len(self._pending)
        for future in self._pending:
            future.cancel()
        self._pending.clear()

    def close(self) -> None:
        """Ends the background thread; batches made ahead are dropped."""
        self.skip(len(self._pending))
        self._worker.shutdown(wait=False)

    def _make(self, number: int) -> Batch:
        chosen = self._batches[number].tolist()
        images = [self._split.image(i) for i in chosen]
        targets = [self._split.target(i) for i in chosen]
        rng = np.random.default_rng((*self._key, number)) if self._augment else None
        return self._task.collate(images, targets, self._split.augmentation, rng)


def batches(split: Split, *, batch: int, seed: int, epoch: int, augment: bool) -> Batches:
    """The training batches of one epoch, shuffled by (seed, epoch); the last partial batch is dropped.

    Raises:
        UserError: the split holds fewer images than one batch, or an image does not decode.
    """
    return Batches(split, batch=batch, seed=seed, epoch=epoch, augment=augment)


def images(split: Split, *, batch: int = 1) -> Iterator[np.ndarray]:
    """float32 (b, c, s, s) in [0, 1], in the split's order; the last batch may be smaller."""
    count = len(split)
    for start in range(0, count, batch):
        pixels = np.stack([split.image(i) for i in range(start, min(start + batch, count))])
        yield np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
