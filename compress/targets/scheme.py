"""A way to quantize for a target. Each target module lists its own, in order of promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scheme:
    """`what` goes into manifests and tables; `options` are for the target's own quantizer."""

    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    saturation_safe: bool = False  # no CPU's 16-bit sums overflow: weights of 7 bits
    rescue: bool = False  # slower to make or to run: tried only where the others lose too much
