"""Batches made ahead: their order, errors of the worker processes, and what is left behind."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.data import streams
from compress.data.streams import Make, ProcessStream, Stream, ThreadStream, problem_of_sending, workers_for
from compress.errors import UserError
from tests.data import makers

NUMBERS = range(1, 9)
SCRIPT = """
import os, signal, sys
from compress.data.streams import ProcessStream
from tests.data.makers import slow, square
stream = ProcessStream(square, range(1, 40), 2)
first = next(stream)
print(*(worker.pid for worker in stream._batches._workers), flush=True)
"""  # without a main guard
needs_mount = pytest.mark.skipif(not makers.can_mount(), reason="only root can mount a small /dev/shm")


def open_stream(workers: int, make: Make = makers.square, requests: Iterable[Any] = NUMBERS) -> Stream:
    return ProcessStream(make, requests, workers) if workers else ThreadStream(make, requests)


def values(stream: Stream) -> list[int]:
    return [int(batch["img"][0, 0]) for batch in stream]


def ended(pids: Iterable[int]) -> bool:
    """Whether processes end within seconds; a dead child of a process that has not asked for it counts."""
    running = [Path(f"/proc/{pid}/stat") for pid in pids]
    for _ in range(100):
        states = [file.read_text().rpartition(")")[2].split()[0] for file in running if file.exists()]
        if set(states) <= {"Z"}:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_the_order_of_the_requests(workers: int) -> None:
    before = torch.get_rng_state()
    with closing(open_stream(workers)) as stream:
        batches = list(stream)
        assert [int(batch["img"][0, 0]) for batch in batches] == [number**2 for number in NUMBERS]
        assert batches[0]["img"].stride() == (1, 64)  # memory layout is kept
        processes = {int(batch["process"]) for batch in batches}
        assert len(processes) == max(1, workers) and (os.getpid() in processes) == (workers == 0)
    assert torch.equal(torch.get_rng_state(), before)  # training draws from it
    assert list(stream) == []


def shared_memory() -> set[str]:
    """The semaphores that are mapped into this process and have a name in the file system."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line for line in lines if "/dev/shm/" in line and not line.endswith("(deleted)")}


@pytest.mark.parametrize("workers", [0, 2])
def test_closing_leaves_no_process_and_no_shared_memory(workers: int) -> None:
    before = shared_memory()
    stream = open_stream(workers, requests=itertools.count())
    next(stream)
    stream.close()
    stream.close()
    assert multiprocessing.active_children() == []
    del stream
    assert shared_memory() <= before


def test_the_time_spent_waiting_is_counted() -> None:
    with closing(open_stream(0, makers.slow)) as stream:
        assert stream.waited == 0
        next(stream)
        assert stream.waited >= 0.1


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_for_the_user_arrives_as_it_is(workers: int) -> None:
    with closing(open_stream(workers, makers.refuse_three)) as stream:
        next(stream), next(stream)
        with pytest.raises(UserError) as caught:
            next(stream)
    assert str(caught.value) == "data=3.jpg: fix or remove it" and caught.value.__cause__ is None


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_is_no_error_of_the_user(workers: int) -> None:
    with closing(open_stream(workers, makers.divide_by, [0])) as stream, pytest.raises(ZeroDivisionError):
        next(stream)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, "a worker process was killed by SIGKILL, probably because memory ran out: set fewer workers"),
        (signal.SIGTERM, "a worker process was killed by SIGTERM: set fewer workers, or data.workers=0"),
    ],
)
def test_a_worker_that_is_killed(number: signal.Signals, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream: Any = open_stream(2, requests=itertools.count())
    next(stream)
    pids = [worker.pid for worker in stream._batches._workers]
    os.kill(pids[0], number)
    with pytest.raises(UserError) as caught:
        for _ in range(100):
            next(stream)
    assert caught.value.key == "data.workers" and says in str(caught.value)
    assert ended(pids)


def test_workers_leave_ctrl_c_to_the_main_process() -> None:
    with closing(open_stream(2, makers.slow)) as stream:
        next(stream)
        for worker in multiprocessing.active_children():
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGINT)
        assert values(stream) == [number**2 for number in NUMBERS[1:]]


def test_ctrl_c_stops_a_script_and_its_workers(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    loop = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
    loop += "try:\n    next(stream), next(stream)\n"  # one from each worker, which ignores Ctrl-C from then on
    loop += "    print('ready', flush=True)\n    while True: next(stream)\n"
    file.write_text(SCRIPT + loop + "except KeyboardInterrupt: stream.close()\n")
    environment = {**os.environ, "PYTHONPATH": str(makers.ROOT)}
    file.write_text(file.read_text().replace("(square, range(1, 40)", "(slow, range(10**6)"))
    script = subprocess.Popen(
        [sys.executable, str(file)], env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert script.stdout is not None
    pids = [int(pid) for pid in script.stdout.readline().split()]
    assert len(pids) == 2
    assert script.stdout.readline() == "ready\n"
    os.killpg(script.pid, signal.SIGINT)
    _, err = script.communicate(timeout=60)
    assert (script.returncode, err) == (0, "")
    assert ended(pids)


def test_workers_end_with_a_main_process_that_is_killed(tmp_path: Path) -> None:
    done = makers.run_script(SCRIPT + "os.kill(os.getpid(), signal.SIGKILL)", folder=tmp_path)
    pids = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL and len(pids) == 2
    assert ended(pids)


@needs_mount
def test_batches_do_not_need_the_shared_memory_of_a_container(tmp_path: Path) -> None:
    code = SCRIPT + "print(first['img'].stride(), [int(batch['img'][0, 0]) for batch in stream])"
    done = makers.run_script(code, memory="100k", folder=tmp_path)  # a batch has 1 MB
    assert done.stdout.splitlines()[1:] == [f"(1, 64) {[number**2 for number in range(2, 40)]}"], done.stderr


def test_a_batch_is_packed_as_it_is() -> None:
    batch: dict[str, Any] = {
        "img": torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), "none": torch.zeros(0, 5),
        "names": ["a.jpg", "b.jpg"], "one": torch.tensor(3, dtype=torch.int8), "wide": torch.rand(5, 1).expand(5, 3),
        "valid": torch.tensor([True]),
    }  # fmt: skip
    again = pickle.loads(ForkingPickler.dumps(streams._Packed(batch))).unpack()
    assert again.pop("names") == batch.pop("names") and again.keys() == batch.keys()
    assert pickle.loads(ForkingPickler.dumps(streams._Packed({}))).unpack() == {}
    for name, value in batch.items():
        assert torch.equal(again[name], value) and again[name].dtype == value.dtype
        assert again[name].stride() == torch.empty_like(value).stride()


@needs_mount
def test_workers_that_cannot_be_started(tmp_path: Path) -> None:
    done = makers.run_script(SCRIPT, memory="4k", folder=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert "UserError: data.workers=2: worker processes cannot be started ([Errno 28] No space left on device)" in last
    assert last.endswith(": set data.workers=0; /dev/shm has only 0 MB free: enlarge it")


def test_what_other_processes_cannot_import_is_told() -> None:
    assert problem_of_sending(makers.square, 3) is None
    assert "local object" in str(problem_of_sending(lambda: 3))
    assert pickle.loads(b"c__main__\n__name__\n.") == "__main__"
    assert "is defined in the script that runs" in str(problem_of_sending("__main__"))


@pytest.mark.parametrize(
    ("accelerator", "cpus", "processes", "workers"),
    [(False, 64, 1, 0), (True, 1, 1, 1), (True, 4, 1, 3), (True, 64, 1, 8), (True, 16, 4, 3)],
)
def test_the_number_of_workers(
    accelerator: bool, cpus: int, processes: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "usable_threads", lambda: cpus)
    assert workers_for(accelerator, processes) == workers
