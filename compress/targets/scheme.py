"""Quantization schemes. Each target module lists its own, preferred first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scheme:
    """One quantization scheme of a target."""

    description: str  # for manifests and tables
    options: Mapping[str, Any] = field(default_factory=dict)  # of the target's quantizer
    saturation_safe: bool = False  # uses 7-bit weights, so that 16-bit sums do not overflow on any CPU
    fallback: bool = False  # slower to create or to run; tried only if the other schemes lose too much accuracy


def ordered(offered: Sequence[Scheme], *, saturates: bool, portable: bool) -> list[Scheme]:
    """Sorts a target's schemes into the order in which they are tried: saturation-safe ones first if INT8 sums overflow
    on the device (`saturates`), otherwise last. With `portable`, only saturation-safe ones, if there are any."""
    safe = [scheme for scheme in offered if scheme.saturation_safe]
    if portable and safe:
        return safe
    return sorted(offered, key=lambda scheme: scheme.saturation_safe != saturates)
