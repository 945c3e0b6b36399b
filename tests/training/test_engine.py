from __future__ import annotations

import copy
import dataclasses
import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torch.nn import functional as F

from compress.training.engine import Batch, fit
from compress.training.precision import float32
from compress.training.schedule import Schedule
from tests.halves import BATCH, epoch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A network this small only waits for further threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Tiny(nn.Sequential):
    """Convolution, BatchNorm and Dropout: weights, running statistics and random numbers, all to be kept."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 8, 3, 2),
            nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(8 * 9, 2),
        )  # fmt: skip


def tiny(seed: int = 0, width: int = 4) -> Tiny:
    torch.manual_seed(seed)
    return Tiny(width)


class Skippable:
    """Batches of which a resumed run may skip some without making them."""

    def __init__(self, number: int) -> None:
        self.batches, self.skipped = list(epoch(number)), 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if not self.batches:
            raise StopIteration
        return self.batches.pop(0)

    def skip(self, count: int) -> None:
        self.skipped, self.batches = count, self.batches[count:]


def loss(net: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(float32(net(batch["img"])), batch["cls"])


def schedule(**changes: Any) -> Schedule:
    return replace(Schedule(12 * BATCH, BATCH, 0.05, bfloat16=False, ema=0.9), **changes)


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def interrupt_at(step: int) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss, with a Ctrl-C in the middle of a step (from 1)."""
    calls = 0

    def interrupted(net: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(net, batch)

    return interrupted


# --- training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "rate", "bfloat16"), [("sgd", 0.1, False), ("adamw", 0.01, False), ("adamw", 0.01, True)]
)
def test_it_learns(optimizer: str, rate: float, bfloat16: bool) -> None:
    plan = schedule(images=60 * BATCH, learning_rate=rate, optimizer=optimizer, bfloat16=bfloat16)
    losses: list[float] = []
    trained = fit(tiny(), loss, epoch, plan, seed=0, on_epoch=lambda number, net, mean: losses.append(mean))
    assert len(losses) == 12
    assert losses[-1] < 0.3 * losses[0]
    with torch.no_grad():
        correct = [(trained(b["img"]).argmax(1) == b["cls"]).float().mean().item() for b in epoch(99)]
    assert sum(correct) / len(correct) > 0.95


def test_what_comes_back() -> None:
    net = tiny()
    net[0].weight.requires_grad_(False)
    before = state(net)
    trained = fit(net, loss, epoch, schedule(bfloat16=True), seed=0)
    assert trained is not net
    assert not any(module.training for module in trained.modules())
    assert {value.dtype for value in trained.parameters()} == {torch.float32}
    assert all(value.is_contiguous() for value in trained.parameters())
    assert [p.requires_grad for p in trained.parameters()] == [p.requires_grad for p in net.parameters()]
    after = state(trained)
    assert torch.equal(after["0.weight"], before["0.weight"])  # frozen
    assert not torch.equal(after["7.weight"], before["7.weight"])
    assert after["1.num_batches_tracked"] == 12


def test_the_seed_decides() -> None:
    runs = [state(fit(tiny(), loss, epoch, schedule(), seed=seed)) for seed in (0, 0, 1)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])  # dropout drew others


def test_callbacks() -> None:
    shares: list[float] = []
    epochs: list[tuple[int, bool]] = []
    fit(
        tiny(), loss, epoch, schedule(), seed=0,
        on_step=shares.append, on_epoch=lambda number, net, mean: epochs.append((number, net.training)),
    )  # fmt: skip
    assert shares == [step / 12 for step in range(12)]
    assert epochs == [(0, False), (1, False), (2, False)]  # 12 steps: two epochs of 5, and a part


@pytest.mark.parametrize("ema", [0.9, 0.0])
def test_the_average_by_hand(ema: float) -> None:
    """Gradient 1, plain SGD: the weight falls by the rate at each step, and the average follows."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    plan = Schedule(80, 1, 0.1, momentum=0.0, weight_decay=0.0, ema=ema, clip=0.0, bfloat16=False)
    trained = fit(net, lambda net, _: net.get_parameter("weight").sum(), lambda _: iter([{}] * 7), plan, seed=0)
    weight = average = 1.0
    for step in range(80):
        weight -= plan.rate(step)
        kept = plan.decay(step + 1)
        average = kept * average + (1 - kept) * weight
    assert net.weight.item() == pytest.approx(weight, abs=1e-5)
    assert trained.get_parameter("weight").item() == pytest.approx(average, abs=1e-5)
    assert (average == weight) == (ema == 0)


@pytest.mark.parametrize(("clip", "fall"), [(0.0, 400.0), (10.0, 10.0)])
def test_clipping(clip: float, fall: float) -> None:
    net = nn.Linear(1, 1, bias=False)
    start = net.weight.item()
    plan = Schedule(1, 1, 1.0, momentum=0.0, weight_decay=0.0, ema=0.0, clip=clip, bfloat16=False)
    fit(net, lambda net, _: 400 * net.get_parameter("weight").sum(), lambda _: iter([{}]), plan, seed=0)
    assert start - net.weight.item() == pytest.approx(fall, rel=1e-4)


def test_weight_decay_spares_norms_and_biases() -> None:
    net = tiny()
    nn.init.ones_(net.get_parameter("0.bias"))
    plan = schedule(images=8, momentum=0.0, learning_rate=0.1, weight_decay=0.5, ema=0.0)
    before = state(net)
    fit(net, lambda net, _: 0 * torch.stack([p.sum() for p in net.parameters()]).sum(), epoch, plan, seed=0)
    after = state(net)
    assert torch.allclose(after["0.weight"], 0.95 * before["0.weight"])
    assert torch.equal(after["0.bias"], before["0.bias"])
    assert torch.equal(after["1.weight"], before["1.weight"])


# --- going on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "step", "batches"),
    [
        ("sgd", 3, epoch),
        ("adamw", 3, epoch),
        ("adamw", 5, epoch),  # at the end of an epoch
        ("adamw", 8, epoch),
        ("sgd", 8, Skippable),
        ("sgd", 60, epoch),  # at the very end
    ],
)
def test_interrupted_and_resumed_is_bit_identical(
    optimizer: str, step: int, batches: Callable[[int], Iterator[Batch]], tmp_path: Path
) -> None:
    steps = 60  # enough for an average that is not the network itself
    plan = schedule(images=steps * BATCH, optimizer=optimizer, learning_rate=0.01)
    file = tmp_path / "deep" / "state.safetensors"
    straight_net, net = tiny(), tiny()
    straight = fit(straight_net, loss, batches, plan, seed=3)
    with pytest.raises(KeyboardInterrupt):
        fit(net, interrupt_at(step), batches, plan, seed=3, checkpoint=file)
    other = tiny(seed=9)  # nothing but the file carries over
    torch.manual_seed(77)
    resumed = fit(other, loss, batches, plan, seed=3, checkpoint=file)
    assert same(state(resumed), state(straight))
    assert same(state(other), state(straight_net))
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    plan, file = schedule(), tmp_path / "state.safetensors"
    trained = fit(tiny(), loss, epoch, plan, seed=0, checkpoint=file)

    def never(net: nn.Module, batch: Batch) -> Tensor:
        raise AssertionError("trained again")

    assert same(state(fit(tiny(5), never, epoch, plan, seed=0, checkpoint=file)), state(trained))


@pytest.mark.parametrize(
    ("net", "changes", "seed"),
    [(tiny(width=5), {}, 0), (tiny(), {"learning_rate": 0.04}, 0), (tiny(), {"images": 800}, 0), (tiny(), {}, 1)],
    ids=["network", "rate", "length", "seed"],
)
def test_a_foreign_checkpoint_is_set_aside(
    net: Tiny, changes: dict[str, Any], seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "state.safetensors"
    fit(tiny(), loss, epoch, schedule(), seed=0, checkpoint=file)
    kept, plan = file.read_bytes(), dataclasses.replace(schedule(), **changes)
    afresh = fit(copy.deepcopy(net), loss, epoch, plan, seed=seed)
    trained = fit(net, loss, epoch, plan, seed=seed, checkpoint=file)
    assert "another network, schedule or seed" in caplog.text
    assert same(state(trained), state(afresh))
    assert file.with_suffix(".unusable").read_bytes() == kept


def _cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _without(prefix: str) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        with safe_open(file, "pt") as content:
            tensors = {key: content.get_tensor(key) for key in content.keys() if not key.startswith(prefix)}  # noqa: SIM118
            meta = content.metadata()
        file.write_bytes(serialise(tensors, meta))

    return damage


def _other_state(text: str) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        with safe_open(file, "pt") as content:
            tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
            meta = content.metadata()
        file.write_bytes(serialise(tensors, {**meta, "state": text}))

    return damage


@pytest.mark.parametrize(
    "damage",
    [_cut_short, _empty, _without("net.0"), _without("ema.0"), _without("rng"), _other_state("[]"), _other_state("{")],
)
def test_a_damaged_checkpoint_is_set_aside(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, plan = tmp_path / "state.safetensors", schedule()
    straight = fit(tiny(), loss, epoch, plan, seed=0)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), interrupt_at(5), epoch, plan, seed=0, checkpoint=file)
    damage(file)
    trained = fit(tiny(), loss, epoch, plan, seed=0, checkpoint=file)
    assert "starting afresh" in caplog.text
    assert same(state(trained), state(straight))


# --- what goes wrong ------------------------------------------------------------------------------------------


def _infinite(net: nn.Module, batch: Batch) -> Tensor:
    return loss(net, batch) * math.inf


def _nan(net: nn.Module, batch: Batch) -> Tensor:
    return loss(net, batch) * math.nan


def _steep(net: nn.Module, batch: Batch) -> Tensor:
    return (0 * loss(net, batch)).sqrt()  # 0 itself, but its gradient is 0 x infinity


@pytest.mark.parametrize(("broken", "what"), [(_nan, "loss (nan)"), (_infinite, "loss (inf)"), (_steep, "gradient")])
def test_what_is_not_finite_stops_the_training(broken: Callable[[nn.Module, Batch], Tensor], what: str) -> None:
    net, calls, weights = tiny(), 0, {}

    def third(net: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls, weights
        calls += 1
        if calls < 3:
            return loss(net, batch)
        weights = {name: value.clone() for name, value in net.named_parameters()}
        return broken(net, batch)

    with pytest.raises(FloatingPointError) as caught:
        fit(net, third, epoch, schedule(), seed=0)
    assert str(caught.value).startswith(f"{what} not finite at step 2, learning rate ")
    assert same(dict(net.named_parameters()), weights)  # the step was not taken


def test_no_batches() -> None:
    with pytest.raises(ValueError, match=r"batches\(0\) yielded no batch"):
        fit(tiny(), loss, lambda _: iter([]), schedule(), seed=0)


def test_ctrl_c_works_again_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), interrupt_at(2), epoch, schedule(), seed=0)
    assert signal.getsignal(signal.SIGINT) is before
