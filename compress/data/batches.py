"""Training batches, shuffled, augmented and made ahead by `streams`, and batches of images in order."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch.distributed as dist
from torch import Tensor

from compress.data.dataset import Split, supervised
from compress.data.sample import Sample
from compress.data.streams import KEY, ProcessStream, Stream, ThreadStream, problem_of_sending, workers_for
from compress.errors import UserError, named, one_line
from compress.host import usable_threads
from compress.tasks import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One batch, or one part of it, to be made. `seed` is the seed of the augmentation.

    It carries its samples, about 300 bytes each, so that worker processes hold no copy of the data set.
    """

    samples: list[Sample]
    seed: tuple[int, ...]


@dataclass(frozen=True)
class BatchMaker:
    """Makes batches from requests. `split` is without its samples."""

    split: Split
    augment: bool

    def __call__(self, request: Request) -> Batch:
        """Raises UserError if an image cannot be decoded, or the task raises or yields numbers that are not finite."""
        rng = np.random.default_rng(request.seed) if self.augment else None
        try:
            return self._make(request.samples, rng)
        except UserError:
            raise
        except Exception as error:
            if self._is_ours:
                raise  # a bug of this package
            raise self._refusal(request.samples, error) from error

    def _make(self, samples: list[Sample], rng: np.random.Generator | None) -> Batch:
        split = replace(self.split, samples=samples)
        task, indices = supervised(split), range(len(samples))
        images = [split.image(i) for i in indices]
        if split.labelled:
            batch = task.collate(images, [split.target(i) for i in indices], split.augmentation, rng)
        else:
            batch = task.collate_images(images, split.augmentation, rng)
        for name, value in () if self._is_ours else batch.items():
            # NumPy, since torch would start threads that compete with those of the training.
            if isinstance(value, Tensor) and value.is_floating_point() and not np.isfinite(value.numpy().sum()):
                raise _NotFinite(f"`{name}` of its batch is not finite")
        return batch

    @property
    def _is_ours(self) -> bool:
        """Whether the task is of this package. Its batches are finite, since labels are checked when they are read."""
        return type(self.split.task).__module__.startswith("compress.")

    def _refusal(self, samples: list[Sample], error: Exception) -> UserError:
        """The error that names the sample at fault, or if each alone is valid, the first one."""
        culprit, reason = samples[0], error
        for sample in samples:
            try:
                self._make([sample], None)
            except Exception as again:
                culprit, reason = sample, again
                break
        width, height = culprit.size
        image = culprit.source if isinstance(culprit.source, Path) else f"an image of {width} x {height} pixels"
        text = str(reason) if isinstance(reason, _NotFinite) else f"its task raised {named(reason)}"
        task, label = type(self.split.task), one_line(f"{culprit.label!r:.80}")
        return UserError("data", image, f"{text}: correct its label, {label}, or {task.__module__}.{task.__qualname__}")


class _NotFinite(Exception):
    """A batch has a value that is infinite or NaN."""


class TrainingBatches:
    """The training batches of a split, in any epoch.

    The order depends only on (seed, epoch), and the augmentation of a batch only on (seed, epoch, index of the batch,
    part). A resumed training therefore sees the same batches as an uninterrupted one, with any number of workers.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch: int,
        seed: int,
        augment: bool,
        workers: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        """
        Args:
            workers: worker processes; 0: a thread of this process; None: `split.workers`, and if that is None too,
                `workers_for` an accelerator if `pin_memory`, else a CPU.
            pin_memory: allocate batches in page-locked memory, from which copies to an accelerator are faster.

        Raises:
            UserError: the split has fewer images than one batch.
        """
        if len(split) < batch:
            raise UserError(
                "finetune.batch", batch, f"set at most {len(split)}: the split `{split.name}` has {len(split)} images"
            )
        workers = split.workers if workers is None else workers
        if workers is None:
            workers = workers_for(pin_memory, dist.get_world_size() if dist.is_initialized() else 1)
        elif workers > (cpus := usable_threads()):
            log.warning("%s=%d: this process may use only %d CPUs", KEY, workers, cpus)
        self._split, self._batch, self._seed = split, batch, seed
        self._make = BatchMaker(replace(split, samples=[]), augment)
        if workers and (problem := problem_of_sending(self._make, split.samples[0])):
            log.warning("%s=%d: the data cannot be sent to worker processes (%s): no workers", KEY, workers, problem)
            workers = 0
        self._workers, self._pin_memory = workers, pin_memory

    def __len__(self) -> int:
        """Number of batches in an epoch. A last partial batch is dropped."""
        return len(self._split) // self._batch

    def start(self, epoch: int, index: int = 0, part: tuple[int, int] = (0, 1), accumulate: int = 1) -> Stream:
        """Starts the workers and returns an endless iterator over the batches of this epoch and the following ones.

        Args:
            index: index of the first batch in the epoch.
            part: (k, n) selects the k-th of n equal slices of each batch. Only its images are decoded.
            accumulate: number of equal slices in which each batch, or part of a batch, is returned one after another:
                slices k * accumulate to (k + 1) * accumulate - 1 of n * accumulate.

        Raises:
            UserError: the batch cannot be divided; while iterating: an image cannot be decoded, the task yields
                invalid values, or a worker process was killed.
        """
        if self._batch % (part[1] * accumulate):
            remedy = f"set a multiple of {part[1] * accumulate}, the number of slices of a batch"
            raise UserError("finetune.batch", self._batch, remedy)
        requests = _Requests(self._split, self._batch, self._seed, epoch, index, part, accumulate)
        if not self._workers:
            return ThreadStream(self._make, requests, pin_memory=self._pin_memory)
        return ProcessStream(self._make, requests, self._workers, pin_memory=self._pin_memory)


@dataclass(frozen=True)
class _Requests:
    """The endless sequence of requests from a batch on."""

    split: Split
    batch: int
    seed: int
    epoch: int
    index: int
    part: tuple[int, int]
    accumulate: int

    def __iter__(self) -> Iterator[Request]:
        count, samples = len(self.split) // self.batch, self.split.samples
        slices = self.part[1] * self.accumulate
        size, first = self.batch // slices, self.part[0] * self.accumulate
        for epoch in itertools.count(self.epoch):
            order = np.random.default_rng((self.seed, epoch)).permutation(len(samples))
            for index in range(self.index if epoch == self.epoch else 0, count):
                for k in range(first, first + self.accumulate):
                    start = index * self.batch + k * size
                    selected = [samples[i] for i in order[start : start + size].tolist()]
                    yield Request(selected, (self.seed, epoch, index, *((k,) if slices > 1 else ())))


def batches(split: Split, *, batch: int, seed: int, epoch: int, augment: bool) -> Generator[Batch]:
    """Yields the training batches of one epoch, made in a background thread, see `TrainingBatches`.

    Raises:
        UserError: the split has fewer images than one batch; while iterating: see `TrainingBatches.start`.
    """
    source = TrainingBatches(split, batch=batch, seed=seed, augment=augment, workers=0)

    def one_epoch() -> Generator[Batch]:
        with closing(source.start(epoch)) as stream:
            yield from itertools.islice(stream, len(source))

    return one_epoch()


def images(split: Split, *, batch: int = 1) -> Iterator[np.ndarray]:
    """Yields float32 (b, c, s, s) batches in [0, 1] in the order of the split. The last batch may be smaller."""
    count = len(split)
    for start in range(0, count, batch):
        pixels = np.stack([split.image(i) for i in range(start, min(start + batch, count))])
        yield np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
