"""FLOPs as text: `budget.flops` such as "50%" or "1.2G", and numbers formatted for reading."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from compress.errors import UserError

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_FLOPS = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*([KMGT]?)(?:FLOPs?)?|([0-9.]+)\s*%", re.IGNORECASE)
_KEY = "budget.flops"


@dataclass(frozen=True)
class FlopsLimit:
    """A limit on the FLOPs of one image (1 MAC = 2 FLOPs): a fraction of the loaded model's, or an absolute number."""

    text: str | float  # as the user wrote it
    percent: float | None  # of the loaded model; None for an absolute limit
    absolute: float | None  # FLOPs

    @classmethod
    def parse(cls, text: str | float) -> FlopsLimit:
        """Parses "50%", "1.2G", or a plain number of FLOPs. Raises UserError for others, and for less than 1 FLOP."""
        match = _FLOPS.fullmatch(str(text).strip())
        try:
            if match is None:
                raise ValueError
            if match[3]:
                return cls(text, float(match[3]), None)
            limit = cls(text, None, float(match[1]) * _UNITS[match[2].upper()])
        except ValueError:
            raise UserError(_KEY, text, "set a percentage such as 50% or a number of FLOPs such as 1.2G") from None
        limit.of(10**9)
        return limit

    def of(self, full: int) -> int:
        """The limit in FLOPs for a loaded model of `full` FLOPs. Raises UserError if it is below 1 or infinite."""
        value = self.absolute if self.percent is None else full * self.percent / 100
        if value is None or not 1 <= value < math.inf:
            raise UserError(_KEY, self.text, "set at least 1 FLOP, or a percentage with its sign, e.g. 50%")
        return int(value)

    def macs(self, full: int) -> float:
        """The limit in MACs for a loaded model of `full` MACs. Errors as in `of`."""
        return self.of(2 * full) / 2


def format_flops(flops: float) -> str:
    """5.48e9 -> "5.48G"."""
    for unit in "TGMK":
        if flops >= _UNITS[unit]:
            return f"{flops / _UNITS[unit]:.4g}{unit}"
    return f"{flops:.0f}"
