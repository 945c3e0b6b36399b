"""What worker processes run in tests: functions and tasks that other processes can import, and scripts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.errors import UserError
from compress.tasks import Batch
from compress.tasks.augmentation import Augmentation
from compress.tasks.classify import Classify

ROOT = Path(__file__).parents[2]
LARGE = 2**18  # floats of a batch: 1 MB


def square(number: int) -> Batch:
    """`number` squared, by which process, in a tensor that is not contiguous."""
    whole = torch.full((LARGE // 64, 64), float(number**2)).t()
    return {"img": whole, "process": torch.tensor([os.getpid()])}


def slow(number: int) -> Batch:
    time.sleep(0.1)
    return square(number)


def refuse_three(number: int) -> Batch:
    if number == 3:
        raise UserError("data", Path("3.jpg"), "fix or remove it")
    return square(number)


def divide_by(number: int) -> Batch:
    return square(6 // number)


@dataclass(frozen=True)
class Odd(Classify):
    """A user's task, of which the labels 7 and 8 are at fault."""

    def collate(
        self, images: list[np.ndarray], targets: list[Any], augmentation: Augmentation, rng: np.random.Generator | None
    ) -> Batch:
        if 8 in targets:
            raise ValueError("no such\nclass")
        weight = torch.tensor([float("nan") if target == 7 else 1.0 for target in targets])
        return {**super().collate(images, targets, augmentation, rng), "weight": weight}


def run_script(code: str, *, memory: str = "", folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a script in its own process; `memory`: size of its /dev/shm, such as 1m, for which it must be root."""
    file = folder / "script.py"
    file.write_text(code)
    command = [sys.executable, str(file)]
    if memory:
        mount = f"mount -t tmpfs -o size={memory} tmpfs /dev/shm && exec "
        command = ["unshare", "--mount", "sh", "-c", mount + " ".join(command)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def can_mount() -> bool:
    try:
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
