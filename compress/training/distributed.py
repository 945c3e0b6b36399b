"""Several processes train together, as `torchrun` starts them. Everything else rank 0 does alone.

Rank 0 goes through the house as a single process would: it alone decides, weighs, caches and writes. The others wait,
and join in where it calls `run_on_all_ranks`. No process trains what rank 0
read from the cache, and nothing is written twice.
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

PATIENCE = timedelta(days=7)  # how long the others wait for rank 0; if it ends they notice at once

T = TypeVar("T")

_processes = 1  # that `run` brought together
_joint = False  # whether a call of `run_on_all_ranks` is under way


class Gone(Exception):
    """Another process has ended, so that nothing can be done together any more."""


def run(command: Callable[[], int]) -> int:
    """The exit status of `command()` on rank 0; 0 elsewhere, when rank 0 has ended."""
    global _processes
    dist.init_process_group("gloo", timeout=PATIENCE)
    _processes = dist.get_world_size()
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)  # Ultralytics, finding them, waits for the other processes by itself, and for ever
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
    """How many there are to take part in a joint call."""
    return _processes


def run_on_all_ranks(function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)` on all processes at once, which share the threads of rank 0; the result of rank 0.

    Raises:
        UserError: the arguments cannot be sent to another process.
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
        return _jointly(*call)
    finally:
        torch.set_num_threads(threads)


def rank() -> int:
    """This process's number in the joint call under way; 0 outside of one."""
    return dist.get_rank() if _joint else 0


def world() -> int:
    """How many processes take part in the joint call under way; 1 outside of one."""
    return _processes if _joint else 1


def average(loss: Tensor, params: Sequence[nn.Parameter], buffers: Sequence[Tensor]) -> Tensor:
    """The mean loss of all processes. The gradients of `params`, and `buffers`, become their means in place.

    A batch norm normalises with the statistics of its own process's images (torch has no synchronised one on CPUs). The
    mean of the running statistics is that of the whole batch, but for the variance between the processes' means.
    """
    if world() == 1:
        return loss
    # One process may have a gradient where another has none, as a share without objects has none for box sizes.
    given = torch.tensor([float(param.grad is not None) for param in params], device=loss.device)
    for param in params:
        if param.grad is None:
            param.grad = torch.zeros_like(param)
    tensors = [loss.detach().clone(), given, *(param.grad for param in params if param.grad is not None), *buffers]
    bucket = torch.cat([tensor.flatten() for tensor in tensors])
    with _in_company():
        dist.all_reduce(bucket)
    bucket /= world()
    for tensor, part in zip(tensors, bucket.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view(tensor.shape))
    for param, found in zip(params, given.tolist()):
        if not found:
            param.grad = None  # nowhere: the optimizer leaves it alone
    return tensors[0]


def agree(value: int) -> bool:
    """Whether all processes have the same number; none goes on before all have asked."""
    if world() == 1:
        return True
    found: list[Any] = [None] * world()
    with _in_company():
        dist.all_gather_object(found, value)
    return len(set(found)) == 1


def _serve() -> None:
    """Joins in whatever rank 0 calls, until it ends."""
    while True:
        try:
            _jointly(*pickle.loads(_broadcast()))
        except (FloatingPointError, UserError):
            continue  # rank 0 meets the same, and reports it
        except Gone:
            return


def _jointly(threads: int, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    global _joint
    torch.set_num_threads(threads)
    _joint = True
    try:
        return function(*arguments)
    finally:
        _joint = False


def _broadcast(packed: bytes = b"") -> bytes:
    """What rank 0 gives, on every process."""
    box = [packed]
    with _in_company():
        dist.broadcast_object_list(box)
    return box[0]


@contextmanager
def _in_company() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise Gone("another process of this training has ended; what it said stands above") from error
