"""Number format, memory layout and thread count of training on this machine.

An accelerator's capabilities decide its format. On CPUs:

bfloat16 halves the time of a step on CPUs with native support (AVX512-BF16, AMX). Where PyTorch emulates it (AVX2-only
CPUs, pytorch#118499), a step takes six times as long. So the CPU's features decide; if they are inconclusive, a few
real steps are timed. A candidate must be `MARGIN` times as fast to replace the default, because timing noise must not
change the result of a command from run to run.
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
from compress.errors import UserError
from compress.host import Host, bfloat16_forbidden, host
from compress.training import distributed
from compress.training.placement import Placement

MARGIN = 1.2  # speed ratio
STEPS = 3  # timed per candidate, after one untimed step
SECONDS = 1.0  # shortest comparison of candidates: times of short steps vary most
LONG = 2.0  # minutes; longer trainings time layout and threads, and log how to shorten them
PATIENCE = 20.0  # seconds, after which no further step is timed
NATIVE = ("avx512_bf16", "amx_bf16")  # CPU features with bfloat16 multiplication


@dataclass(frozen=True)
class TrainingSettings:
    """How this machine trains. Hardware, number format and layout change the last bits of results and are part of cache
    keys."""

    format: str = "fp32"  # "fp32", "bf16" or "fp16"
    channels_last: bool = True
    threads: int = 1
    placement: Placement = field(default_factory=Placement)
    compile: bool = False  # torch.compile
    reason: str = "the default"
    images_per_second: float | None = None  # of a training step with these settings; None if not timed
    timed: Mapping[str, float] = field(default_factory=dict)  # {candidate: images per second}

    @property
    def numerics(self) -> dict[str, Any]:
        """The settings that results depend on."""
        numerics: dict[str, Any] = {"bfloat16": self.format == "bf16", "channels_last": self.channels_last}
        if self.placement.kind != "cpu":
            numerics |= {"hardware": self.placement.name, "format": self.format}
        processes = distributed.processes()  # each normalises and augments its own part of a batch
        numerics |= {"processes": processes} if processes > 1 else {}
        return numerics | ({"compile": True} if self.compile else {})

    def as_dict(self) -> dict[str, Any]:
        """As a JSON-serialisable dict for the run folder."""
        hardware = self.placement.name
        return {**asdict(self), "hardware": hardware, "timed": dict(self.timed)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], placement: Placement) -> TrainingSettings:
        """The inverse of `as_dict`, for the same hardware."""
        own = {name: value for name, value in fields.items() if name not in ("hardware", "placement")}
        return cls(**own, placement=placement)

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "channels first"
        where = f"{self.threads} threads" if self.placement.kind == "cpu" else self.placement.name
        return f"{self.format}, {layout}, {where} ({self.reason})"


Step = Callable[[TrainingSettings], object]
"""One training step on a copy of the network."""


def native_bfloat16(
    machine: Host | None = None, environment: Mapping[str, str] | None = None
) -> tuple[bool | None, str]:
    """Whether the CPU supports bfloat16 natively (None if its features are inconclusive), and the reason.

    Instruction sets that `ONEDNN_MAX_CPU_ISA` forbids oneDNN count as absent.
    """
    machine, environment = machine or host(), os.environ if environment is None else environment
    if limit := bfloat16_forbidden(environment):
        return False, f"ONEDNN_MAX_CPU_ISA={limit} excludes bfloat16 instructions"
    native = [feature for feature in NATIVE if feature in machine.features]
    if native:
        return True, f"the CPU has {' and '.join(native)}"
    if "avx2" in machine.features and "avx512f" not in machine.features:
        return False, "the CPU has AVX2 but no AVX-512: bfloat16 would be emulated"
    return None, "the CPU's features are inconclusive"


def by_capability(
    threads: int,
    precision: NumberFormat = NumberFormat.auto,
    placement: Placement | None = None,
) -> TrainingSettings:
    """Settings chosen by the hardware's features alone, without timing; float32 if they are inconclusive.

    Raises:
        UserError: the hardware cannot compute in `precision`.
    """
    placement = placement or Placement()
    formats, why = _formats(placement)
    chosen = formats[0] if precision is NumberFormat.auto else precision.name
    if chosen not in formats and (placement.kind != "cpu" or chosen == "fp16"):  # a CPU emulates bfloat16
        raise UserError("precision", chosen, f"{placement.name} cannot compute in it: set one of {', '.join(formats)}")
    reason = why if precision is NumberFormat.auto else f"precision={precision.name}"
    return TrainingSettings(chosen, True, threads, placement, reason=reason)


def _formats(placement: Placement) -> tuple[list[str], str]:
    """The formats that the hardware multiplies natively, fastest first, and why."""
    if placement.kind == "cpu":
        native, why = native_bfloat16()
        return (["bf16", "fp32"] if native else ["fp32"]), why
    if placement.kind == "mps":
        return ["fp32", "fp16"], "the default on Apple GPUs"
    device = placement.device()
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return ["bf16", "fp16", "fp32"], f"{placement.name} computes in bfloat16"
    if torch.cuda.get_device_capability(device) >= (7, 0):
        return ["fp16", "fp32"], f"{placement.name} has float16 but no bfloat16 units"
    return ["fp32"], f"{placement.name} has no 16-bit units"


def choose(
    precision: NumberFormat, threads: int, images: int, step: Step, total: int, placement: Placement | None = None
) -> TrainingSettings:
    """Chooses the settings for this machine.

    Short trainings keep the default layout and threads: they gain little, and short steps are the hardest to time.

    Args:
        precision: `auto`, or the format that the user has set.
        threads: upper limit; above two, fewer are chosen if they are faster.
        images: images per step.
        step: runs one training step, without lasting effects.
        total: image presentations in all trainings of the run.

    Raises:
        UserError: the hardware cannot compute in `precision`.
    """
    base = by_capability(threads, precision, placement)
    race = _Race(step, images)
    if base.placement.kind != "cpu":
        return replace(base, images_per_second=race.speed(base), timed=race.rates)
    native, why = native_bfloat16()
    if native is None and precision is NumberFormat.auto:
        base = race.better(base, replace(base, format="bf16", reason=f"{why}: bfloat16 was timed and is faster"))
        if base.format == "fp32":
            base = replace(base, reason=f"{why}: bfloat16 was timed and is not faster")
    long = total / race.speed(base) / 60 > LONG
    if long and base.format == "fp32":  # always faster with native bfloat16: 48 against 36 images/s on drone_nano
        base = race.better(base, replace(base, channels_last=False))
    while long and base.threads > 2:
        fewer = race.better(base, replace(base, threads=max(2, base.threads // 2)))
        if fewer is base:
            break
        base = fewer
    return replace(base, images_per_second=race.speed(base), timed=race.rates)


@dataclass
class _Race:
    """Times candidates in turns, so that a temporary load on the machine slows all of them."""

    step: Step
    images: int
    rates: dict[str, float] = field(default_factory=dict)  # {candidate: images per second}
    _until: float = field(default_factory=lambda: time.monotonic() + PATIENCE)

    def better(self, default: TrainingSettings, rival: TrainingSettings) -> TrainingSettings:
        """`rival` if it is faster by MARGIN, else `default`.

        Its fastest step and its median turn must both be: the fastest step alone may just have hit a quiet moment.
        """
        if time.monotonic() > self._until:
            return default
        default_times, rival_times = self._take_turns(default, rival)
        best = min(default_times) / min(rival_times)
        typical = statistics.median(a / b for a, b in zip(default_times, rival_times))
        return rival if min(best, typical) >= MARGIN else default

    def speed(self, settings: TrainingSettings) -> float:
        """Images per second of the fastest step, because other load can only slow a step down."""
        if _label(settings) not in self.rates:
            self._take_turns(settings)
        return self.rates[_label(settings)]

    def _take_turns(self, *candidates: TrainingSettings) -> list[list[float]]:
        """Seconds of each candidate's steps, by turn, without the first if there are more: it prepares kernels."""
        turns: list[list[float]] = []
        began = time.monotonic()
        while len(turns) < 1 + STEPS or (len(candidates) > 1 and time.monotonic() < began + SECONDS):
            turns.append([self._seconds(candidate) for candidate in candidates])
            if time.monotonic() > self._until:
                break
        seconds = [list(times) for times in zip(*(turns[1:] or turns))]
        for candidate, times in zip(candidates, seconds):
            label = _label(candidate)
            self.rates[label] = max(self.rates.get(label, 0.0), self.images / min(times))
        return seconds

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
