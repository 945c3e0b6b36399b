"""Costs of a network and of its layers, by the conventions of `flops.py`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

APART = "%s has no formula: its arithmetic is not counted"
Unknown = Literal["error", "warn"]  # what to do about operators that may compute products and have no formula


@dataclass(frozen=True)
class LayerCost:
    """Cost of the operators that a module calls itself, summed over its calls."""

    macs: int
    params: int
    bytes: int
    output: tuple[int, ...]  # output shape of its last operator
    other_by_kind: dict[str, int]  # FLOPs outside products by kind, see `operators.kind_of`
    bit_operations: int

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def other_flops(self) -> int:
        return sum(self.other_by_kind.values())

    @property
    def intensity(self) -> float:
        """Operational intensity: FLOPs, of products and others, per byte moved."""
        return (self.flops + self.other_flops) / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass on the whole example batch, by the conventions above."""

    macs: int
    params: int
    param_bytes: int
    bytes_moved: int
    activation_bytes: int
    activation_bytes_in_place: int
    layers: dict[str, LayerCost] = field(repr=False)  # by module name; "" is the network itself
    unknown: dict[str, int] = field(default_factory=dict)  # {operator without a formula: calls}, with unknown="warn"

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def other_flops(self) -> int:
        """FLOPs outside products."""
        return sum(layer.other_flops for layer in self.layers.values())

    @property
    def intensity(self) -> float:
        """Operational intensity: FLOPs, of products and others, per byte moved."""
        return (self.flops + self.other_flops) / self.bytes_moved if self.bytes_moved else 0.0

    @property
    def bit_operations(self) -> int:
        return sum(layer.bit_operations for layer in self.layers.values())

    @property
    def other_by_kind(self) -> dict[str, int]:
        """FLOPs outside products by kind, see `operators.kind_of`, largest first."""
        kinds: Counter[str] = Counter()
        for layer in self.layers.values():
            kinds.update(layer.other_by_kind)
        return {kind: flops for kind, flops in kinds.most_common() if flops}

    @property
    def layer_macs(self) -> dict[str, int]:
        """MACs by module name, of the modules that compute products themselves."""
        return {name: layer.macs for name, layer in self.layers.items() if layer.macs}

    def macs_within(self, module: str) -> int:
        """MACs of a module and its submodules; 0 if it did not run."""
        prefix = f"{module}." if module else ""
        return sum(layer.macs for name, layer in self.layers.items() if f"{name}.".startswith(prefix))
