"""Which devices a configuration selects."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compress.config import Accelerator, compose
from compress.errors import UserError
from compress.training import placement
from compress.training.placement import Placement, resolve

CPU_ONLY = {"cuda": 0, "mps": 0, "cpu": 4}
TWO_GPUS = {"cuda": 2, "mps": 0, "cpu": 8}
MAC = {"cuda": 0, "mps": 1, "cpu": 8}


@pytest.mark.parametrize(
    ("machine", "accelerator", "devices", "processes", "kind", "indices"),
    [
        (CPU_ONLY, "auto", 1, None, "cpu", (0,)),
        (CPU_ONLY, "auto", "auto", None, "cpu", (0,)),  # one process uses all cores
        (CPU_ONLY, "cpu", 2, None, "cpu", (0, 1)),
        (CPU_ONLY, "auto", 1, 2, "cpu", (0, 1)),  # torchrun decides
        (CPU_ONLY, "auto", 1, 5, "cpu", (0, 1, 2, 3, 4)),
        (TWO_GPUS, "auto", 1, None, "cuda", (0,)),
        (TWO_GPUS, "auto", "auto", None, "cuda", (0, 1)),
        (TWO_GPUS, "cuda", [1], None, "cuda", (1,)),
        (TWO_GPUS, "cuda", [1, 0], 2, "cuda", (1, 0)),
        (TWO_GPUS, "cpu", 1, None, "cpu", (0,)),
        (MAC, "auto", "auto", None, "mps", (0,)),
    ],
)
def test_what_is_selected(
    machine: dict[str, int], accelerator: str, devices: Any, processes: int | None, kind: str,
    indices: tuple[int, ...], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(placement, "_available", lambda: machine)
    assert resolve(Accelerator(accelerator), devices, processes) == Placement(kind, indices)


@pytest.mark.parametrize(
    ("machine", "accelerator", "devices", "processes", "message"),
    [
        (CPU_ONLY, "cuda", 1, None, r"accelerator=cuda: this machine has none .*: set auto, or one of cpu"),
        (MAC, "cuda", 1, None, r"accelerator=cuda: .* set auto, or one of mps, cpu"),
        (TWO_GPUS, "auto", 3, None, r"devices=3: there are 2 \(cuda device\)"),
        (TWO_GPUS, "auto", [0, 2], None, r"devices=\[0, 2\]: there are 2"),
        (TWO_GPUS, "auto", [0], 2, r"devices=\[0\]: torchrun started 2 processes"),
        (TWO_GPUS, "auto", 1, 3, r"devices=3: there are 2"),
        (MAC, "mps", 2, None, r"devices=2: there is 1 \(mps device\)"),
        (CPU_ONLY, "cpu", [0, 1], None, r"devices=\[0, 1\]: indices select CUDA devices: for cpu set a number"),
        (CPU_ONLY, "cpu", 5, None, r"devices=5: there are 4 \(CPU that this process may use\)"),
    ],
)
def test_what_is_refused(
    machine: dict[str, int], accelerator: str, devices: Any, processes: int | None, message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(placement, "_available", lambda: machine)
    with pytest.raises(UserError, match=message):
        resolve(Accelerator(accelerator), devices, processes)


@pytest.mark.parametrize("devices", ["0", "-1", "2.5", "all", "[]", "[0,0]", "[-1]", "[a]"])
def test_devices_that_mean_nothing(devices: str) -> None:
    with pytest.raises(UserError, match=r"devices=.*set a number from 1, auto, or different indices"):
        compose(["recipe=digits", f"devices={devices}"])


def test_the_device_of_each_process() -> None:
    assert Placement("cuda", (2, 5)).device(1) == torch.device("cuda", 5)
    assert Placement("cpu", (0, 1)).device(1) == torch.device("cpu")
    assert Placement("mps").device() == torch.device("mps")
