"""A way to quantize for a target. Each target module lists its own, in order of promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scheme:
    """`what` goes into manifests and tables; `options` are for the target's own quantizer."""

    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    saturation_safe: bool = False  # no CPU's 16-bit sums overflow: weights of 7 bits
    rescue: bool = False  # slower to make or to run: tried only where the others lose too much


def ordered(offered: Sequence[Scheme], *, saturates: bool, portable: bool) -> list[Scheme]:
    """Those of a target to try, in order: safe ones first where sums of INT8 products overflow on the device, and no
    others where the file is to be `portable`."""
    safe = [scheme for scheme in offered if scheme.saturation_safe]
    rest = [scheme for scheme in offered if not scheme.saturation_safe]
    if portable and safe:
        return safe
    return safe + rest if saturates else rest + safe
