from __future__ import annotations

import copy
import dataclasses
import json
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

from compress.errors import UserError
from compress.tasks import Batch
from compress.training import engine
from compress.training.engine import fit
from compress.training.precision import float32
from compress.training.schedule import Schedule
from tests.fakes import Clock
from tests.halves import BATCH, Halves, epoch


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


def loss(net: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(float32(net(batch["img"])), batch["cls"])


def schedule(**changes: Any) -> Schedule:
    return replace(Schedule(12 * BATCH, BATCH, 0.05, format="fp32", ema=0.9), **changes)


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
    ("optimizer", "rate", "format"), [("sgd", 0.1, "fp32"), ("adamw", 0.01, "fp32"), ("adamw", 0.01, "bf16")]
)
def test_it_learns(optimizer: str, rate: float, format: str) -> None:
    plan = schedule(images=60 * BATCH, learning_rate=rate, optimizer=optimizer, format=format)
    trained = fit(tiny(), loss, Halves(), plan, seed=0)
    with torch.no_grad():
        correct = [(trained(b["img"]).argmax(1) == b["cls"]).float().mean().item() for b in epoch(99)]
    assert sum(correct) / len(correct) > 0.95


def test_what_comes_back() -> None:
    net = tiny()
    net[0].weight.requires_grad_(False)
    before = state(net)
    trained = fit(net, loss, Halves(), schedule(format="bf16"), seed=0)
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
    runs = [state(fit(tiny(), loss, Halves(), schedule(), seed=seed)) for seed in (0, 0, 1)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])  # dropout drew others


def test_the_fraction_done_is_announced_before_each_step() -> None:
    fractions: list[float] = []
    fit(tiny(), loss, Halves(), schedule(), seed=0, on_step=fractions.append)
    assert fractions == [step / 12 for step in range(12)]


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(accumulate: int) -> None:
    """Without batch norm, whose statistics are those of a part."""
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(64, 2)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, parts in zip(nets, (1, accumulate)):
        fit(net, loss, Halves(), schedule(optimizer="adamw", learning_rate=0.01), seed=0, accumulate=parts)
    whole, in_parts = (net.get_parameter("1.weight") for net in nets)
    assert torch.allclose(whole, in_parts, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ema", [0.9, 0.0])
def test_the_average_by_hand(ema: float) -> None:
    """Gradient 1, plain SGD: the weight falls by the rate at each step, and the average follows."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    plan = Schedule(80, 1, 0.1, momentum=0.0, weight_decay=0.0, ema=ema, clip=0.0, format="fp32")
    trained = fit(net, lambda net, _: net.get_parameter("weight").sum(), Halves(), plan, seed=0)
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
    plan = Schedule(1, 1, 1.0, momentum=0.0, weight_decay=0.0, ema=0.0, clip=clip, format="fp32")
    fit(net, lambda net, _: 400 * net.get_parameter("weight").sum(), Halves(), plan, seed=0)
    assert start - net.weight.item() == pytest.approx(fall, rel=1e-4)


def test_weight_decay_spares_norms_and_biases() -> None:
    net = tiny()
    nn.init.ones_(net.get_parameter("0.bias"))
    plan = schedule(images=8, momentum=0.0, learning_rate=0.1, weight_decay=0.5, ema=0.0)
    before = state(net)
    fit(net, lambda net, _: 0 * torch.stack([p.sum() for p in net.parameters()]).sum(), Halves(), plan, seed=0)
    after = state(net)
    assert torch.allclose(after["0.weight"], 0.95 * before["0.weight"])
    assert torch.equal(after["0.bias"], before["0.bias"])
    assert torch.equal(after["1.weight"], before["1.weight"])


# --- going on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "step"),
    [
        ("sgd", 3),
        ("adamw", 3),
        ("adamw", 5),  # at the end of an epoch
        ("adamw", 8),
        ("sgd", 60),  # at the very end
    ],
)
def test_interrupted_and_resumed_is_bit_identical(optimizer: str, step: int, tmp_path: Path) -> None:
    steps = 60  # enough for an average that is not the network itself
    plan = schedule(images=steps * BATCH, optimizer=optimizer, learning_rate=0.01)
    file = tmp_path / "deep" / "state.safetensors"
    straight_net, net = tiny(), tiny()
    straight = fit(straight_net, loss, Halves(), plan, seed=3)
    with pytest.raises(KeyboardInterrupt):
        fit(net, interrupt_at(step), Halves(), plan, seed=3, checkpoint=file)
    other = tiny(seed=9)  # nothing but the file carries over
    torch.manual_seed(77)
    resumed = fit(other, loss, Halves(), plan, seed=3, checkpoint=file)
    assert same(state(resumed), state(straight))
    assert same(state(other), state(straight_net))
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    plan, file = schedule(), tmp_path / "state.safetensors"
    trained = fit(tiny(), loss, Halves(), plan, seed=0, checkpoint=file)

    def never(net: nn.Module, batch: Batch) -> Tensor:
        raise AssertionError("trained again")

    assert same(state(fit(tiny(5), never, Halves(), plan, seed=0, checkpoint=file)), state(trained))


@pytest.mark.parametrize(
    ("net", "changes", "seed"),
    [(tiny(width=5), {}, 0), (tiny(), {"learning_rate": 0.04}, 0), (tiny(), {"images": 800}, 0), (tiny(), {}, 1)],
    ids=["network", "rate", "length", "seed"],
)
def test_a_foreign_checkpoint_is_set_aside(
    net: Tiny, changes: dict[str, Any], seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "state.safetensors"
    fit(tiny(), loss, Halves(), schedule(), seed=0, checkpoint=file)
    kept, plan = file.read_bytes(), dataclasses.replace(schedule(), **changes)
    afresh = fit(copy.deepcopy(net), loss, Halves(), plan, seed=seed)
    trained = fit(net, loss, Halves(), plan, seed=seed, checkpoint=file)
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
    straight = fit(tiny(), loss, Halves(), plan, seed=0)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), interrupt_at(5), Halves(), plan, seed=0, checkpoint=file)
    damage(file)
    trained = fit(tiny(), loss, Halves(), plan, seed=0, checkpoint=file)
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
        fit(net, third, Halves(), schedule(), seed=0)
    assert str(caught.value).startswith(f"{what} not finite at step 2, learning rate ")
    assert same(dict(net.named_parameters()), weights)  # the step was not taken


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def limited_to(images: int) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss on a device whose memory holds the activations of so many images."""

    def limited(net: nn.Module, batch: Batch) -> Tensor:
        if len(batch["img"]) > images:
            raise OUT_OF_MEMORY
        return loss(net, batch)

    return limited


def test_a_batch_that_does_not_fit_is_computed_in_parts() -> None:
    net, expected, batches = tiny(), tiny(), Halves()
    fit(net, limited_to(3), batches, schedule(), seed=0, accumulate=None)
    fit(expected, loss, Halves(), schedule(), seed=0, accumulate=4)
    assert same(state(net), state(expected))
    assert [stream.closed for stream in batches.streams] == [True, True, True]  # of 8, 4 and 2 images


def test_out_of_memory_names_the_batch_that_fits(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    fit(tiny(), loss, Halves(), schedule(images=5 * BATCH), seed=0, checkpoint=file)
    with pytest.raises(
        UserError, match=r"finetune\.batch=8: cpu has too little memory for 8 images at once; 2 fit: "
    ) as caught:
        fit(tiny(), limited_to(3), Halves(), schedule(), seed=0)
    assert "set finetune.batch=2, or finetune.accumulate=4" in str(caught.value)


def test_memory_too_small_for_one_image() -> None:
    with pytest.raises(UserError, match=r"too little memory for 1 images at once \(CUDA out of memory"):
        fit(tiny(), limited_to(0), Halves(), schedule(), seed=0, accumulate=None)


def test_an_error_of_the_data_keeps_the_state(tmp_path: Path) -> None:
    file, calls = tmp_path / "state.safetensors", 0

    def broken_image(net: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise UserError("data", "3.jpg", "the image cannot be decoded: fix or remove it")
        return loss(net, batch)

    with pytest.raises(UserError, match=r"3\.jpg"):
        fit(tiny(), broken_image, Halves(), schedule(), seed=0, checkpoint=file)
    with safe_open(file, "pt") as content:
        assert json.loads(content.metadata()["state"])["step"] == 7


def test_slow_loading_is_named_in_the_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock, batches = Clock(), Halves()
    monkeypatch.setattr(engine, "time", clock)

    def slow(net: nn.Module, batch: Batch) -> Tensor:
        clock.sleep(20)  # seconds, of which a quarter was spent waiting for the batch
        batches.streams[-1].waited += 5
        return loss(net, batch)

    caplog.set_level("INFO")
    fit(tiny(), slow, batches, schedule(), seed=0)
    assert "loading images is the limit: 25 % of the time" in caplog.text
    assert "0.4 images/s" in caplog.text


def test_ctrl_c_works_again_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), interrupt_at(2), Halves(), schedule(), seed=0)
    assert signal.getsignal(signal.SIGINT) is before
