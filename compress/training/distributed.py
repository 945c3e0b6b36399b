"""Data-parallel training in the processes that `torchrun` starts.

Rank 0 runs the pipeline as a single process would: only it decides, measures, caches and writes. The other ranks wait
and take part in its calls of `run_on_all_ranks`. So results that rank 0 reads from the cache are not computed again.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from compress.errors import UserError

PATIENCE = timedelta(days=7)  # for which the other ranks wait for rank 0; if it ends they notice at once

T = TypeVar("T")

_processes = 1  # world size inside `run`
_joint = False  # True inside `run_on_all_ranks`


class Gone(Exception):
    """Another process has ended, so collective operations are no longer possible."""


def run(command: Callable[[], int]) -> int:
    """Runs `command` on rank 0 and returns its exit status. Other ranks return 0 once rank 0 has ended."""
    global _processes
    dist.init_process_group("gloo", timeout=PATIENCE)
    _processes = dist.get_world_size()
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)  # if they are set, Ultralytics waits for the other ranks forever
    try:
        if dist.get_rank() == 0:
            return command()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides when to stop
        _serve()
        return 0
    finally:
        _processes = 1
        dist.destroy_process_group()


def processes() -> int:
    """Number of processes that take part in `run_on_all_ranks`."""
    return _processes


def run_on_all_ranks(function: Callable[..., T], *arguments: Any) -> T:
    """Calls `function(*arguments)` on every rank, with rank 0's threads divided among them; returns rank 0's result.

    Raises:
        UserError: the arguments cannot be pickled.
    """
    if _processes == 1:
        return function(*arguments)
    threads = torch.get_num_threads()
    call = (max(1, threads // _processes), function, arguments)
    try:
        packed = pickle.dumps(call)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        remedy = f"this network cannot be sent to another process ({error}): train in one process"
        raise UserError("model", "torchrun", remedy) from error
    _broadcast(packed)
    try:
        return _run_joint(*call)
    finally:
        torch.set_num_threads(threads)


def rank() -> int:
    """Rank of this process inside `run_on_all_ranks`; 0 outside of it."""
    return dist.get_rank() if _joint else 0


def world() -> int:
    """Number of processes inside `run_on_all_ranks`; 1 outside of it."""
    return _processes if _joint else 1


def average(loss: Tensor, params: Sequence[nn.Parameter], buffers: Sequence[Tensor]) -> Tensor:
    """Averages the gradients of `params` and the `buffers` over all ranks in place, and returns the mean loss.

    Batch norms normalise with the statistics of their own shard, because torch has no synchronised batch norm on CPUs.
    The averaged running statistics are those of the whole batch, except for the variance between the shards' means.
    """
    if world() == 1:
        return loss
    # A rank may lack a gradient that another has: a shard without objects yields none for box sizes.
    has_gradient = torch.tensor([float(param.grad is not None) for param in params], device=loss.device)
    for param in params:
        if param.grad is None:
            param.grad = torch.zeros_like(param)
    gradients = [param.grad for param in params if param.grad is not None]
    tensors = [loss.detach().clone(), has_gradient, *gradients, *buffers]
    bucket = torch.cat([tensor.flatten() for tensor in tensors])
    with _collective():
        dist.all_reduce(bucket)
    bucket /= world()
    for tensor, part in zip(tensors, bucket.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view(tensor.shape))
    for param, present in zip(params, has_gradient.tolist()):
        if not present:
            param.grad = None  # on no rank, so the optimizer must skip it
    return tensors[0]


def agree(value: int) -> bool:
    """Whether `value` is equal on all ranks. Returns once every rank has called it."""
    if world() == 1:
        return True
    values: list[Any] = [None] * world()
    with _collective():
        dist.all_gather_object(values, value)
    return len(set(values)) == 1


def _serve() -> None:
    """Takes part in the calls of rank 0 until it ends."""
    while True:
        try:
            _run_joint(*pickle.loads(_broadcast()))
        except (FloatingPointError, UserError):
            continue  # rank 0 raises it too, and reports it
        except Gone:
            return


def _run_joint(threads: int, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    global _joint
    torch.set_num_threads(threads)
    _joint = True
    try:
        return function(*arguments)
    finally:
        _joint = False


def _broadcast(packed: bytes = b"") -> bytes:
    """Returns rank 0's `packed` on every rank."""
    box = [packed]
    with _collective():
        dist.broadcast_object_list(box)
    return box[0]


@contextmanager
def _collective() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise Gone("another process of this training has ended; see its error above") from error
