"""How training computes on this machine: number format, memory layout and threads.

bfloat16 halves the time of a step where the CPU multiplies it itself (AVX512-BF16, AMX) and makes it six times as long
where PyTorch emulates it (an AVX2-only CPU: pytorch#118499). So the CPU's capability decides, and where that leaves
doubt, the time of a few real steps. A format must win by `MARGIN` to replace the default: noise must not decide, since
the same command has to give the same result on one machine.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from compress.config import NumberFormat
from compress.host import Host, bfloat16_forbidden, host

MARGIN = 1.2  # times as fast
STEPS = 3  # timed for each candidate, after one that is not
SECONDS = 1.0  # of timing at least, whatever the number of steps: short ones vary most
LONG = 2.0  # minutes of training from which on layout and threads are timed, and the user is told how to shorten it
PATIENCE = 20.0  # seconds of timing at most, but for the step under way
NATIVE = ("avx512_bf16", "amx_bf16")  # CPU features that multiply bfloat16


@dataclass(frozen=True)
class TrainingSettings:
    """What `choose` decided. The first two change results in the last bits and belong to what a result is known by."""

    bfloat16: bool = False
    channels_last: bool = True
    threads: int = 1
    reason: str = "the default"
    images_per_second: float | None = None  # of a training step with these settings; None where none was timed
    timed: Mapping[str, float] = field(default_factory=dict)  # {candidate: images a second}

    @property
    def format(self) -> str:
        return "bf16" if self.bfloat16 else "fp32"

    @property
    def numerics(self) -> dict[str, Any]:
        """What results depend on."""
        return {"bfloat16": self.bfloat16, "channels_last": self.channels_last}

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for the run folder."""
        return {**asdict(self), "format": self.format, "timed": dict(self.timed)}

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "channels first"
        return f"{self.format}, {layout}, {self.threads} threads ({self.reason})"


Step = Callable[[TrainingSettings], object]
"""One training step on a copy of the network."""


def native_bfloat16(
    machine: Host | None = None, environment: Mapping[str, str] | None = None
) -> tuple[bool | None, str]:
    """Whether the CPU multiplies bfloat16 itself, and why; None where its features do not tell.

    oneDNN can be told to do without newer instruction sets (`ONEDNN_MAX_CPU_ISA`): that counts as a CPU without them.
    """
    machine, environment = machine or host(), os.environ if environment is None else environment
    if limit := bfloat16_forbidden(environment):
        return False, f"ONEDNN_MAX_CPU_ISA={limit} leaves no bfloat16 units"
    found = [feature for feature in NATIVE if feature in machine.features]
    if found:
        return True, f"the CPU has {' and '.join(found)}"
    if "avx2" in machine.features and "avx512f" not in machine.features:
        return False, "the CPU has AVX2 and nothing newer, where bfloat16 is emulated"
    return None, "the CPU's features do not tell"


def by_capability(threads: int, asked: NumberFormat = NumberFormat.auto) -> TrainingSettings:
    """The settings that the CPU's features alone suggest; float32 where they do not tell. Nothing is timed."""
    native, why = native_bfloat16()
    wanted = {NumberFormat.bf16: True, NumberFormat.fp32: False, NumberFormat.auto: bool(native)}[asked]
    return TrainingSettings(wanted, True, threads, why if asked is NumberFormat.auto else f"precision={asked.name}")


def choose(asked: NumberFormat, threads: int, images: int, step: Step, total: int) -> TrainingSettings:
    """The settings for this machine. Layout and threads stay the defaults for a short training: little is gained there,
    and its short steps tell candidates apart least.

    Args:
        asked: `auto`, or the format that the user wants.
        threads: that may be used at most; fewer are taken where that is faster, on machines with more than two.
        images: of one step.
        step: runs one training step; nothing of it may be kept.
        total: image presentations of all trainings together.
    """
    native, why = native_bfloat16()
    base = by_capability(threads, asked)
    race = _Race(step, images)
    if native is None and asked is NumberFormat.auto:
        base = race.better(base, replace(base, bfloat16=True, reason=f"{why}: bfloat16 was timed and is faster"))
        if not base.bfloat16:
            base = replace(base, reason=f"{why}: bfloat16 was timed and is not faster")
    long = total / race.speed(base) / 60 > LONG
    if long and not base.bfloat16:  # with native bfloat16 it always wins: 48 against 36 images/s on drone_nano
        base = race.better(base, replace(base, channels_last=False))
    while long and base.threads > 2:
        fewer = race.better(base, replace(base, threads=max(2, base.threads // 2)))
        if fewer is base:
            break
        base = fewer
    return replace(base, images_per_second=race.speed(base), timed=race.rates)


@dataclass
class _Race:
    """Times candidates against each other, in turns: a load of the machine that comes and goes then slows both."""

    step: Step
    images: int
    rates: dict[str, float] = field(default_factory=dict)  # {candidate: images a second}
    _until: float = field(default_factory=lambda: time.monotonic() + PATIENCE)

    def better(self, default: TrainingSettings, rival: TrainingSettings) -> TrainingSettings:
        """`rival` where it is faster by MARGIN, else `default`.

        Both its fastest step and most of its turns must be: the fastest alone may be one that the other never had the
        quiet for.
        """
        if time.monotonic() > self._until:
            return default
        ours, theirs = self._take_turns(default, rival)
        turns = [a / b for a, b in zip(ours, theirs)]
        return rival if min(min(ours) / min(theirs), statistics.median(turns)) >= MARGIN else default

    def speed(self, settings: TrainingSettings) -> float:
        """Images a second: that of the fastest of some steps, since whatever else runs can only make one slower."""
        if _label(settings) not in self.rates:
            self._take_turns(settings)
        return self.rates[_label(settings)]

    def _take_turns(self, *candidates: TrainingSettings) -> list[list[float]]:
        """Seconds of each candidate's steps, turn by turn; the first, which prepares kernels, only if it is alone."""
        turns: list[list[float]] = []
        began = time.monotonic()
        while len(turns) < 1 + STEPS or (len(candidates) > 1 and time.monotonic() < began + SECONDS):
            turns.append([self._seconds(each) for each in candidates])
            if time.monotonic() > self._until:
                break
        found = [list(times) for times in zip(*(turns[1:] or turns))]
        for candidate, times in zip(candidates, found):
            label = _label(candidate)
            self.rates[label] = max(self.rates.get(label, 0.0), self.images / min(times))
        return found

    def _seconds(self, settings: TrainingSettings) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(settings.threads)
        try:
            began = time.perf_counter()
            self.step(settings)
            return time.perf_counter() - began
        finally:
            torch.set_num_threads(before)


def _label(settings: TrainingSettings) -> str:
    layout = "channels_last" if settings.channels_last else "contiguous"
    return f"{settings.format} {layout} {settings.threads} threads"
