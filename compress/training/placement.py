"""The devices on which this machine trains and evaluates networks: a CPU, CUDA GPUs, or an Apple GPU (MPS).

Networks and batches are on the CPU between uses. A function that computes takes a `torch.device`, moves what it needs
there and returns results on the CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compress.config import Accelerator
from compress.errors import UserError
from compress.host import host, usable_threads

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Placement:
    """The devices of one machine; each is used by one process."""

    kind: str = "cpu"  # device type in torch
    indices: tuple[int, ...] = (0,)

    def device(self, local_rank: int = 0) -> torch.device:
        """The device of the process `local_rank` of this machine."""
        return torch.device(self.kind, self.indices[local_rank]) if self.kind == "cuda" else torch.device(self.kind)

    @property
    def name(self) -> str:
        """Name of the hardware."""
        return torch.cuda.get_device_name(self.device()) if self.kind == "cuda" else host().cpu


def prepare(device: torch.device) -> None:
    """Sets PyTorch to repeatable algorithms and to float32 without TF32's rounding to 10 bits, for this process."""
    if device.type == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def resolve(accelerator: Accelerator, devices: int | str | Sequence[int], processes: int | None = None) -> Placement:
    """The devices that `accelerator` and `devices` select.

    Args:
        devices: a number, "auto" (all GPUs; one process on a CPU), or indices of GPUs.
        processes: number of processes on this machine if torchrun has started them; each gets one device.

    Raises:
        UserError: the machine lacks the accelerator, or has fewer devices than are requested.
    """
    available = _available()
    kind = accelerator.value
    if accelerator is Accelerator.auto:
        kind = next((kind for kind in ("cuda", "mps") if available[kind]), "cpu")
    elif not available[kind]:
        present = ", ".join(kind for kind, count in available.items() if count)
        remedy = f"this machine has none that PyTorch {torch.__version__} can use: set auto, or one of {present}"
        raise UserError("accelerator", kind, remedy)
    if isinstance(devices, int | str):  # the only text is "auto"
        default = 1 if kind == "cpu" else available[kind]
        count = processes or (default if devices == "auto" else int(devices))
        indices: tuple[int, ...] = tuple(range(count))
    else:
        indices = tuple(devices)
        if kind != "cuda":
            raise UserError("devices", list(indices), f"indices select CUDA devices: for {kind} set a number")
        if processes and processes > len(indices):
            raise UserError("devices", list(indices), f"torchrun started {processes} processes: name as many devices")
    if max(indices) >= available[kind] and not (kind == "cpu" and processes):  # CPUs may be shared
        one = "CPU that this process may use" if kind == "cpu" else f"{kind} device"
        remedy = f"there {'is 1' if available[kind] == 1 else f'are {available[kind]}'} ({one}): set fewer"
        raise UserError("devices", list(indices) if isinstance(devices, Sequence) else len(indices), remedy)
    return Placement(kind, indices)


@functools.cache
def _available() -> dict[str, int]:
    """{device type: number of devices, or of processes on the CPU}."""
    return {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": usable_threads(),
    }


def synchronise(device: torch.device) -> None:
    """Waits until the device has computed what was queued. Without effect on the CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
