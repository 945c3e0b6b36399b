"""Two processes train as one would. What happens in them is in the functions of this module; assertions are here."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress import data, models
from compress.config import compose
from compress.errors import UserError
from compress.product import Product
from compress.stages import train
from compress.tasks import Batch
from compress.training import distributed
from compress.training.engine import fit
from compress.training.precision import float32
from compress.training.schedule import Schedule
from tests.halves import BATCH, Halves

STEPS = 30
PLAN = Schedule(STEPS * BATCH, BATCH, 0.01, "adamw", ema=0.9, format="fp32")
STILL = replace(PLAN, learning_rate=1e-12)  # statistics change, weights do not


def net(norm: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Dropout(0.1 if norm else 0), nn.Flatten(), nn.Linear(8 * 9, 2),
        nn.Linear(2, 2),
    )  # fmt: skip


def loss(net: nn.Module, batch: Batch) -> Tensor:
    """The last layer is left out: it gets no gradient anywhere, and may not change."""
    assert isinstance(net, nn.Sequential)
    return F.cross_entropy(float32(net[:-1](batch["img"])), batch["cls"])


def one_sided(net: nn.Module, batch: Batch) -> Tensor:
    """What is not finite is so on the second process alone."""
    return loss(net, batch) * (float("nan") if distributed.rank() else 1.0)


CALLS = itertools.count(1)


def interrupted(net: nn.Module, batch: Batch) -> Tensor:
    """Ctrl-C in the 8th step: torchrun passes it on to every process."""
    if next(CALLS) == 8:
        os.kill(os.getpid(), signal.SIGINT)
    return loss(net, batch)


def trained(
    folder: Path, name: str, norm: bool, loss: Any = loss, checkpoint: bool = False, plan: Schedule = PLAN
) -> None:
    """One training, whose result each process leaves in a file of its own."""
    start = net(norm)
    file = folder / f"{name}.safetensors" if checkpoint else None
    average = fit(start, loss, Halves(), plan, seed=0, checkpoint=file)
    torch.save([start.state_dict(), average.state_dict()], folder / f"{name}-{distributed.rank()}.pt")


def scenes(folder: Path) -> int:
    """What rank 0 does in the first pair of processes."""
    assert (distributed.rank(), distributed.world(), distributed.processes()) == (0, 1, 2)  # alone so far
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & os.environ.keys()
    torch.set_num_threads(2)
    distributed.run_on_all_ranks(trained, folder, "plain", False)
    assert torch.get_num_threads() == 2  # its own again
    distributed.run_on_all_ranks(trained, folder, "norm", True)
    distributed.run_on_all_ranks(trained, folder, "still", True, loss, False, STILL)
    with pytest.raises(FloatingPointError, match=r"loss \(nan\) not finite at step 0"):
        distributed.run_on_all_ranks(trained, folder, "broken", False, one_sided)
    with pytest.raises(UserError, match="train in one process"):
        distributed.run_on_all_ranks(trained, folder, lambda: "not to be sent")
    with pytest.raises(KeyboardInterrupt):
        distributed.run_on_all_ranks(trained, folder, "resumed", True, interrupted, True)
    return 130


def resume(folder: Path) -> int:
    distributed.run_on_all_ranks(trained, folder, "resumed", True, loss, True)
    return 0


def start(rank: int, port: int, folder: Path, scene: Any) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    (folder / f"{scene.__name__}-{rank}.status").write_text(str(distributed.run(lambda: scene(folder))))


def pair(folder: Path, scene: Any) -> list[str]:
    """What `distributed.run(scene)` returned in each of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload([__name__, "torch._dynamo"])  # seconds, once instead of in each process
    torch.multiprocessing.start_processes(start, (port, folder, scene), nprocs=2, start_method="forkserver")
    return [(folder / f"{scene.__name__}-{rank}.status").read_text() for rank in (0, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    assert pair(folder, scenes) == ["130", "0"]
    assert (folder / "resumed.safetensors").exists() and not (folder / "resumed-0.pt").exists()
    assert pair(folder, resume) == ["0", "0"]
    return folder


def states(folder: Path, name: str) -> list[list[dict[str, Tensor]]]:
    return [torch.load(folder / f"{name}-{rank}.pt") for rank in (0, 1)]


def same(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> bool:
    return all(torch.equal(x[key], y[key]) for x, y in zip(a, b, strict=True) for key in x)


def test_two_processes_get_the_weights_of_one(folder: Path) -> None:
    alone = net(False)
    average = fit(alone, loss, Halves(), PLAN, seed=0)
    first, _ = states(folder, "plain")
    fresh = net(False).state_dict()
    for ours, theirs in zip(first, (alone.state_dict(), average.state_dict()), strict=True):
        for key in ours:
            # Sums of floats in another order, through 30 steps of AdamW: measured 2e-7.
            assert torch.allclose(ours[key], theirs[key], rtol=0, atol=1e-5), key
    assert (first[0]["7.weight"] - fresh["7.weight"]).abs().max() > 0.03  # and they did learn
    assert torch.equal(first[0]["8.weight"], fresh["8.weight"])


@pytest.mark.parametrize("name", ["plain", "norm", "resumed"])
def test_all_processes_end_with_the_same_network(name: str, folder: Path) -> None:
    first, second = states(folder, name)
    assert same(first, second)


def test_running_statistics_are_those_of_the_whole_batch(folder: Path) -> None:
    alone = net(True)
    fit(alone, loss, Halves(), STILL, seed=0)
    result, expected = states(folder, "still")[0][0], alone.state_dict()
    assert torch.allclose(result["1.running_mean"], expected["1.running_mean"], rtol=0, atol=1e-6)
    assert torch.allclose(result["1.running_var"], expected["1.running_var"], rtol=0.01)


def test_interrupted_and_resumed_is_bit_identical(folder: Path) -> None:
    assert same(states(folder, "resumed")[0], states(folder, "norm")[0])


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "processes", lambda: 3)
    config = models.resolve(compose(["recipe=digits", "train.batch=32"]))
    dataset = data.load(config.data, *config.model.input, config.seed)
    model = models.build(config.model)
    with pytest.raises(UserError, match=r"train\.batch=32: set a multiple of 3"):
        train.check(Product(model), config, dataset)


def test_the_pipeline_under_torchrun(tmp_path: Path) -> None:
    """Only rank 0 measures and writes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "compress"]
    command += ["recipe=digits", "stages=[train]", "targets=[]", "train.images=2048", "budget.max_accuracy_drop=null"]
    command += ["budget.flops=null", "data.validation_images=100", "threads=1"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (tmp_path / "outputs" / "digits").iterdir()
    assert len((run / "ledger.jsonl").read_text().splitlines()) == 2
    (entry,) = (tmp_path / "outputs" / ".cache").glob("train-*/entry.json")
    assert entry.with_name("product").is_dir()
    assert (done.stderr + done.stdout).count("stage 1 of 1: train") == 1


# --- processes that `devices` asks for --------------------------------------------------------------------------


@pytest.fixture
def two() -> Iterator[None]:
    distributed.use(2)
    yield
    distributed.use(1)
    distributed.stop()


def total() -> int:
    """A sum over the ranks: 1 + 2."""
    value = torch.tensor(distributed.rank() + 1)
    torch.distributed.all_reduce(value)
    return int(value)


def killed() -> bool:
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return distributed.agree(1)


def broken_image() -> bool:
    if distributed.rank() == 1:
        raise UserError("data", "3.jpg", "the image cannot be decoded: fix or remove it")
    return distributed.agree(1)


def bug() -> bool:
    if distributed.rank() == 1:
        raise ZeroDivisionError
    return distributed.agree(1)


def test_processes_are_started_once_and_end(two: None) -> None:
    assert distributed.processes() == 2
    assert distributed.run_on_all_ranks(total) == 3
    (process,) = distributed._started
    assert distributed.run_on_all_ranks(total) == 3
    assert distributed._started == [process] and process.poll() is None
    distributed.stop()
    assert process.returncode is not None
    distributed.use(1)
    assert distributed.run_on_all_ranks(distributed.world) == 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (killed, r"devices=2: another training process has ended \(killed by SIGKILL; .*repeat the command to resume"),
        (broken_image, r"data=3\.jpg: the image cannot be decoded: fix or remove it"),
        (bug, r"devices=2: another training process has ended: see its error above"),
    ],
)
def test_a_process_that_ends_is_one_error(two: None, function: Callable[[], bool], message: str) -> None:
    with pytest.raises(UserError, match=message):
        distributed.run_on_all_ranks(function)
    assert distributed.run_on_all_ranks(total) == 3  # in new processes


def all_cpus() -> None:
    """The tests of one process are pinned to one CPU."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPUs")
def test_the_pipeline_with_two_devices(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "compress", "recipe=digits", "stages=[train]", "targets=[]", "train.images=2048"]
    command += ["budget.flops=null", "budget.max_accuracy_drop=null", "data.validation_images=100"]
    command += ["accelerator=cpu", "devices=2", "threads=2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, preexec_fn=all_cpus)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (tmp_path / "outputs" / "digits").iterdir()
    rows = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    assert rows[-1]["accuracy"]["value"] > 0.5
    assert json.loads((run / "machine.json").read_text())["training"]["placement"]["indices"] == [0, 1]
