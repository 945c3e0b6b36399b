"""Data-parallel training in several processes: those that `devices` asks for, or those that `torchrun` starts.

Rank 0 runs the pipeline as a single process would: only it decides, measures, caches and writes. The other ranks wait
and take part in its calls of `run_on_all_ranks`. So results that rank 0 reads from the cache are not computed again.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from compress.errors import UserError

PATIENCE = timedelta(days=7)  # for which the other ranks wait for rank 0; if it ends they notice at once
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # if they are set, Ultralytics waits for the other ranks forever
PROBLEM = "problem"  # key in the store: the error that ended another rank
READY = "ready"  # prefix of keys in the store: a started process has reached `run`

DYING = 5.0  # seconds until the exit status of a process that broke its connection is known

T = TypeVar("T")

_planned = 1  # see `use`
_processes = 1  # world size: of `run`, or of the processes that were started
_local_rank, _local_processes = 0, None  # on this machine; None: not started by torchrun
_joint = False  # True inside `run_on_all_ranks`
_store: dist.Store | None = None
_started: list[subprocess.Popen[bytes]] = []  # by this process


class Gone(Exception):
    """Another process has ended, so collective operations are no longer possible."""


def run(command: Callable[[], int]) -> int:
    """Runs `command` on rank 0 and returns its exit status. Other ranks return 0 once rank 0 has ended.

    The processes are those that torchrun has started, on one or several machines.
    """
    global _local_rank, _local_processes
    _local_rank, _local_processes = (int(os.environ.get(name, 1)) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    store, rank, world = next(dist.rendezvous("env://", timeout=PATIENCE))
    for name in VARIABLES:
        os.environ.pop(name, None)
    store.set(f"{READY}{rank}", "")
    _join(store, rank, world)
    try:
        if rank == 0:
            return command()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides when to stop
        _serve()
        return 0
    finally:
        _leave()


def use(processes: int) -> None:
    """Sets the number of processes for later calls of `run_on_all_ranks`; torchrun's processes stay as they are.

    They are started by the first call, run `python -m compress.training`, and end with this process or at `stop`.
    """
    global _planned
    _planned = processes


def _start(processes: int) -> None:
    """Starts processes so that there are `processes` with this one, which becomes rank 0.

    Raises:
        UserError: a process ends while it starts.
    """
    stop()
    if processes == 1:
        return
    store = dist.TCPStore("127.0.0.1", 0, processes, is_master=True, timeout=PATIENCE, wait_for_workers=False)
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
    }  # fmt: skip
    for rank in range(1, processes):
        command = [sys.executable, "-m", "compress.training"]
        numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        _started.append(subprocess.Popen(command, env=environment | numbers, stdin=subprocess.DEVNULL))
    atexit.register(stop)
    while not store.check([f"{READY}{rank}" for rank in range(1, processes)]):
        if any(process.poll() is not None for process in _started):
            raise _lost(processes)
        time.sleep(0.05)
    _join(store, 0, processes)


def stop() -> None:
    """Ends the processes that this one has started."""
    if not _started:
        return
    _leave()
    for process in _started:
        process.terminate()
    for process in _started:
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
    _started.clear()


def processes() -> int:
    """Number of processes that take part in `run_on_all_ranks`."""
    return _planned if _local_processes is None else _processes


def processes_here() -> int | None:
    """Number of processes that torchrun has started on this machine; None without torchrun."""
    return _local_processes


def local_rank() -> int:
    """Number of this process among those of this machine."""
    return _local_rank


def run_on_all_ranks(function: Callable[..., T], *arguments: Any) -> T:
    """Calls `function(*arguments)` on every rank, with rank 0's threads divided among them; returns rank 0's result.

    Raises:
        UserError: the arguments cannot be pickled, or another rank has ended; its own error if it was a UserError.
    """
    if _local_processes is None and _planned != _processes:
        _start(_planned)
    if _processes == 1:
        return function(*arguments)
    threads = torch.get_num_threads()
    call = (max(1, threads // _processes), function, arguments)
    try:
        packed = pickle.dumps(call)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        remedy = f"this network cannot be sent to another process ({error}): train in one process"
        raise UserError("model", "torchrun", remedy) from error
    try:
        _broadcast(packed)
        return _run_joint(*call)
    except Gone as error:
        raise _lost(_processes) from error
    except FloatingPointError:
        raise  # on every rank, so all are ready for the next call
    except BaseException:
        stop()
        raise
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
    gradients = [_in_memory_order(param.grad, param) for param in params if param.grad is not None]
    tensors = [loss.detach().clone(), has_gradient, *gradients, *buffers]
    bucket = torch.cat([tensor.flatten() for tensor in tensors])
    with _collective():
        dist.all_reduce(bucket)
    bucket /= world()
    parts = bucket.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view(tensor.shape) for tensor, part in zip(tensors, parts)])
    for param, present in zip(params, has_gradient.tolist()):
        if not present:
            param.grad = None  # on no rank, so the optimizer must skip it
    return tensors[0]


def _in_memory_order(gradient: Tensor, param: nn.Parameter) -> Tensor:
    """A view whose order of elements is that of `param` in memory: a channels-last tensor is then copied faster."""
    channels_last = param.ndim == 4 and not param.is_contiguous()
    return gradient.permute(0, 2, 3, 1) if channels_last else gradient


def agree(value: int) -> bool:
    """Whether `value` is equal on all ranks. Returns once every rank has called it."""
    if world() == 1:
        return True
    values: list[Any] = [None] * world()
    with _collective():
        dist.all_gather_object(values, value)
    return len(set(values)) == 1


def _join(store: dist.Store, rank: int, world: int) -> None:
    global _processes, _store
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    _processes, _store = world, store


def _leave() -> None:
    global _processes, _local_rank, _local_processes, _store
    _processes, _local_rank, _local_processes, _store = 1, 0, None, None
    if dist.is_initialized():
        dist.destroy_process_group()


def _serve() -> None:
    """Takes part in the calls of rank 0 until it ends.

    Raises:
        UserError: of a call. Rank 0 may not have met it, and waits for this rank; it learns of it when this rank ends.
    """
    while True:
        try:
            _run_joint(*pickle.loads(_broadcast()))
        except FloatingPointError:
            continue  # rank 0 raises it too, and reports it
        except Gone:
            return
        except UserError as error:
            assert _store is not None
            _store.set(PROBLEM, json.dumps([str(error.key), str(error.value), error.remedy]))
            raise


def _lost(processes: int) -> UserError:
    """The error of a rank that has ended."""
    if _store is not None and _store.check([PROBLEM]):
        problem = json.loads(_store.get(PROBLEM))
        stop()
        return UserError(*problem)
    deadline = time.monotonic() + DYING
    while _started and time.monotonic() < deadline and all(process.poll() is None for process in _started):
        time.sleep(0.05)  # its connection ends before it does
    statuses = [process.returncode for process in _started if process.returncode is not None]
    killed = [signal.Signals(-status).name for status in statuses if status < 0]
    reason = f" (killed by {killed[0]}; the system may be out of memory)" if killed else ": see its error above"
    stop()
    remedy = f"another training process has ended{reason}. The training's state is kept: repeat the command to resume"
    return UserError("devices", processes, remedy)


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
        dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


@contextmanager
def _collective() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise Gone("another process of this training has ended; see its error above") from error
