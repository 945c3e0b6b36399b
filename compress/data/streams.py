"""Runs `make(request)` ahead of the caller: in a thread of this process, or in worker processes.

Worker processes are started by a fork server. A plain fork is unsafe in a process that has used CUDA, or in which a
thread of torch, OpenCV or a runtime holds a lock. Spawned workers each import torch, which takes seconds and 300 MB;
those of a fork server share the server's import: measured, 340 MB in total and 35 MB for each worker. Where there is no
fork server (Windows), they are spawned.
"""

from __future__ import annotations

import mmap
import multiprocessing.connection
import multiprocessing.util
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
import types
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from compress.errors import UserError, one_line
from compress.host import usable_threads
from compress.tasks import Batch

KEY = "data.workers"
MOST = 8  # workers that are chosen without the user's request
AHEAD = 2  # batches that a thread, and each worker process, prepares beyond the one in use
SHARED_MEMORY = Path("/dev/shm")
FULL = 2**20  # bytes; with less free shared memory a message names it
SOCKETS = "/tmp"
ALIGNMENT = 64  # bytes
DYING = 5.0  # seconds until the exit status of a worker that broke its connection is known

Make = Callable[[Any], Batch]


def workers_for(accelerator: bool, processes: int = 1) -> int:
    """Number of worker processes for `data.workers=null`, in each of `processes` training processes.

    A CPU that trains has no core to spare: on 2 cores a thread of the training process is as fast as a worker process,
    and needs neither its memory nor its start-up time; see docs/benchmarks.md. An accelerator leaves the cores idle.
    """
    return max(1, min(MOST, usable_threads() // processes - 1)) if accelerator else 0


def problem_of_sending(*objects: object) -> str | None:
    """The reason why the objects cannot be sent to another process; None if they can."""
    try:
        packed = pickle.dumps(objects)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return str(error)
    # Workers do not import the script that runs: without a main guard it would start further workers.
    return "a class is defined in the script that runs, not in a module" if b"__main__" in packed else None


class Stream(Iterator[Batch], ABC):
    """An iterator over batches that are made ahead.

    Attributes:
        waited: seconds that the caller has waited for batches.
    """

    def __init__(self) -> None:
        self.waited = 0.0

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            return self._next()
        finally:
            self.waited += time.perf_counter() - start

    @abstractmethod
    def _next(self) -> Batch: ...

    @abstractmethod
    def close(self) -> None:
        """Ends the thread or the workers and drops what they have made. Further calls do nothing."""


class ThreadStream(Stream):
    """Batches made by one background thread. OpenCV and NumPy release the interpreter lock for most of the time."""

    def __init__(self, make: Make, requests: Iterable[Any], *, pin_memory: bool = False) -> None:
        super().__init__()
        if cv2.getNumThreads() != 1:  # images are small, and training needs the cores
            cv2.setNumThreads(1)  # only once: the thread of another stream may be using the pool
        self._make, self._requests, self._pin = make, iter(requests), pin_memory
        self._pending: deque[Future[Batch]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def _next(self) -> Batch:
        while len(self._pending) <= AHEAD and (request := next(self._requests, None)) is not None:
            self._pending.append(self._thread.submit(self._make_one, request))
        if not self._pending:
            self.close()
            raise StopIteration
        return self._pending.popleft().result()

    def _make_one(self, request: Any) -> Batch:
        batch = self._make(request)
        return _pinned(batch) if self._pin else batch

    def close(self) -> None:
        self._requests = iter(())
        self._pending.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)


class ProcessStream(Stream):
    """Batches made by worker processes, returned in the order of the requests."""

    def __init__(self, make: Make, requests: Iterable[Any], workers: int, *, pin_memory: bool = False) -> None:
        super().__init__()
        server = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if server else "spawn")
        context.set_forkserver_preload([__name__, "compress.data.batches"])
        _put_sockets_outside_the_run()
        try:
            with _hidden_script(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "This DataLoader will create")  # `TrainingBatches` warns itself
                loader: DataLoader[Any] = DataLoader(
                    _Made(make),
                    batch_size=None,
                    sampler=requests,
                    num_workers=workers,
                    prefetch_factor=AHEAD,
                    pin_memory=pin_memory,
                    multiprocessing_context=context,
                    worker_init_fn=_prepare_worker,
                    generator=torch.Generator(),  # training draws from torch's global generator
                )
                self._batches: Any = iter(loader)
        except OSError as error:  # no room for semaphores in shared memory, or no further process is allowed
            remedy = f"worker processes cannot be started ({one_line(error)}): set data.workers=0{_shared_memory()}"
            raise UserError(KEY, workers, remedy) from error

    def _next(self) -> Batch:
        if self._batches is None:
            raise StopIteration
        try:
            made = next(self._batches)
            batch = made.unpack() if isinstance(made, _Packed) else made
        except (RuntimeError, OSError, EOFError) as error:
            if (problem := self._ended(0 if isinstance(error, RuntimeError) else DYING)) is None:
                raise  # raised by `make`: a bug
            self.close()
            raise problem from error
        if isinstance(batch, _Refusal):
            raise UserError(*batch)
        return batch

    def _ended(self, seconds: float) -> UserError | None:
        """The error to raise if a worker ends within `seconds`; None if all are running."""
        workers = self._batches._workers
        multiprocessing.connection.wait([worker.sentinel for worker in workers], seconds)
        codes = [worker.exitcode for worker in workers if worker.exitcode]
        if not codes:
            return None
        if codes[0] > 0:
            remedy = f"a worker process ended with exit status {codes[0]}, see its output above"
        else:
            name = signal.Signals(-codes[0]).name
            remedy = f"a worker process was killed by {name}"
            remedy += ", probably because memory ran out" if name == "SIGKILL" else ""
        remedy += ": set fewer workers, or data.workers=0"
        return UserError(KEY, len(workers), remedy)

    def close(self) -> None:
        batches, self._batches = self._batches, None
        if batches is not None:
            batches._shutdown_workers()  # not left to the garbage collector: a traceback may refer to it


class _Refusal(NamedTuple):
    """A UserError in a worker. The loader would raise it in the main process as a RuntimeError with a traceback."""

    key: str
    value: str
    remedy: str


class _Made(Dataset[Any]):
    """The map from requests to batches, in a form that can be sent to the main process."""

    def __init__(self, make: Make) -> None:
        self._make = make

    def __getitem__(self, request: Any) -> Batch | _Packed | _Refusal:
        try:
            batch = self._make(request)
        except UserError as error:
            return _Refusal(error.key, str(error.value), error.remedy)
        return _Packed(batch) if hasattr(os, "memfd_create") else batch


class _Packed:
    """A batch in one block of anonymous shared memory, of which only the file descriptor is sent.

    Torch would use /dev/shm, of which Docker provides 64 MB. If that is full, the error is raised in a background
    thread of the worker, and the main process waits forever; so it does if batches are sent through a pipe and the
    worker is killed while it writes. Here messages are so short that they are written at once.
    """

    def __init__(self, batch: Batch) -> None:
        self._others = {name: value for name, value in batch.items() if not isinstance(value, Tensor)}
        self._size, self._layout = 0, dict[str, tuple[int, torch.dtype, torch.Size, tuple[int, ...]]]()
        for name, value in batch.items():
            if name in self._others:
                continue
            dense = torch.empty_like(value, device="meta")
            self._layout[name] = (self._size, value.dtype, value.shape, dense.stride())
            self._size += -(-dense.nbytes // ALIGNMENT) * ALIGNMENT
        file = os.memfd_create("batch")
        try:
            self._size = self._size or ALIGNMENT  # an empty file cannot be mapped
            os.ftruncate(file, self._size)
            for name, tensor in self._tensors(file).items():
                tensor.copy_(batch[name])
            self._file: Any = DupFd(file)
        finally:
            os.close(file)

    def unpack(self) -> Batch:
        """Returns the batch, without copying it."""
        file = self._file.detach()
        try:
            return {**self._tensors(file), **self._others}
        finally:
            os.close(file)

    def pin_memory(self, device: object = None) -> Batch:
        """Called by the loader in a thread of the main process."""
        return _pinned(self.unpack())

    def _tensors(self, file: int) -> Batch:
        memory = torch.frombuffer(mmap.mmap(file, self._size), dtype=torch.uint8)
        return {
            name: memory[start:].view(dtype).as_strided(shape, stride)
            for name, (start, dtype, shape, stride) in self._layout.items()
        }


def _shared_memory() -> str:
    """The end of a message if shared memory is full, else an empty string."""
    if not SHARED_MEMORY.is_dir() or (free := shutil.disk_usage(SHARED_MEMORY).free) >= FULL:
        return ""
    return f"; {SHARED_MEMORY} has only {free / 2**20:.0f} MB free: enlarge it"


def _pinned(batch: Batch) -> Batch:
    return {key: value.pin_memory() if isinstance(value, Tensor) else value for key, value in batch.items()}


def _prepare_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides when to stop
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    """Ends this worker with the main process, however that ends. The fork server, its parent, waits for the worker."""
    main = multiprocessing.parent_process()
    assert main is not None
    main.join()
    os._exit(1)


@contextmanager
def _hidden_script() -> Iterator[None]:
    """Prevents that new processes import the script that runs, see `problem_of_sending`."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _put_sockets_outside_the_run() -> None:
    """Makes multiprocessing's folder of sockets in /tmp.

    During a run, temporary files are in a folder of the run, which is deleted before this process ends, and whose path
    may be too long for a socket.
    """
    previous = tempfile.tempdir
    if os.access(SOCKETS, os.W_OK):
        tempfile.tempdir = SOCKETS
    try:
        multiprocessing.util.get_temp_dir()
    finally:
        tempfile.tempdir = previous
