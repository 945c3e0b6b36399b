"""Training that goes on after an interruption."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from compress.tasks import Batch
from compress.training.engine import fit
from tests.halves import BATCH, Halves, Tiny, interrupt_at, loss, same, schedule, state, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


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
