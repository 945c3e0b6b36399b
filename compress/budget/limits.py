"""One limit of a budget and the number it is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from compress.typed_json import AnyFloat


@dataclass(frozen=True)
class Check:
    """One limit and one number. `met` is None if the number could not be measured."""

    name: str
    target: str | None
    precision: str | None
    limit: float
    value: AnyFloat | None  # infinite or NaN if an artifact computes such outputs
    unit: str

    @property
    def met(self) -> bool | None:
        # A drop from 0.99 to 0.98 is 0.01 on paper and a hair more in binary.
        return None if self.value is None else self.value <= self.limit + 1e-9 * abs(self.limit)
