"""Quantization schemes. Each target module lists its own, preferred first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scheme:
    """One way to quantize for a target.

    Attributes:
        description: for manifests and tables.
        options: for the target's own quantizer.
        saturation_safe: weights of 7 bits, so that no CPU's 16-bit sums overflow.
        fallback: slower to make or to run; tried only where the others lose too much accuracy.
    """

    description: str
    options: Mapping[str, Any] = field(default_factory=dict)
    saturation_safe: bool = False
    fallback: bool = False


def ordered(offered: Sequence[Scheme], *, saturates: bool, portable: bool) -> list[Scheme]:
    """A target's schemes in the order to try: safe ones first where INT8 sums overflow on the device, and only those
    where the file must be `portable`."""
    safe = [scheme for scheme in offered if scheme.saturation_safe]
    rest = [scheme for scheme in offered if not scheme.saturation_safe]
    if portable and safe:
        return safe
    return safe + rest if saturates else rest + safe
