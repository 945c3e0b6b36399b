from __future__ import annotations

import functools
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from compress.errors import UserError
from compress.tasks import Batch
from compress.training import engine
from compress.training.engine import fit
from compress.training.schedule import Schedule
from tests.fakes import Clock
from tests.halves import BATCH, Halves, HalvesStream, epoch, interrupt_at, loss, same, schedule, state, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_epochs_are_announced() -> None:
    epochs: list[tuple[int, bool]] = []
    on_epoch = lambda number, net, loss: epochs.append((number, net.training))  # noqa: E731
    fit(tiny(), loss, Halves(), schedule(), seed=0, on_epoch=on_epoch)
    assert epochs == [(0, False), (1, False), (2, False)]  # 12 steps: two epochs of 5, and a part


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


def test_an_error_of_the_data_keeps_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second part of the 8th batch."""
    file, whole, calls = tmp_path / "state.safetensors", HalvesStream.__next__, 0

    def broken(stream: HalvesStream) -> Batch:
        nonlocal calls
        calls += 1
        if calls == 16:
            raise UserError("data", "3.jpg", "the image cannot be decoded: fix or remove it")
        return whole(stream)

    undisturbed, resumed = tiny(), tiny(4)
    fit(undisturbed, loss, Halves(), schedule(), seed=0, accumulate=2)
    with monkeypatch.context() as patch:
        patch.setattr(HalvesStream, "__next__", broken)
        with pytest.raises(UserError, match=r"3\.jpg"):
            fit(tiny(), loss, Halves(), schedule(), seed=0, checkpoint=file, accumulate=2)
    with safe_open(file, "pt") as content:
        assert json.loads(content.metadata()["state"])["step"] == 7
    fit(resumed, loss, Halves(), schedule(), seed=0, checkpoint=file, accumulate=2)  # with the image repaired
    assert same(state(resumed), state(undisturbed))


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


def test_a_compiled_network_is_trained_alike() -> None:
    calls = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        calls.append(graph)
        return graph.forward

    nets = [tiny(), tiny()]
    compile_with = functools.partial(nets[1].compile, backend=backend)
    object.__setattr__(nets[1], "compile", compile_with)
    for net, compiled in zip(nets, (False, True)):
        fit(net, loss, Halves(), schedule(compile=compiled), seed=0)
    assert calls
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(state(nets[0]).values(), state(nets[1]).values()))


def test_a_network_that_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        raise ValueError("no such operator")

    net = tiny()
    object.__setattr__(net, "compile", functools.partial(net.compile, backend=backend))
    with pytest.raises(UserError, match=r"compile=True: the network cannot be compiled .*no such operator"):
        fit(net, loss, Halves(), schedule(compile=True), seed=0)
