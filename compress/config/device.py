"""The configuration of a device: targets, precisions, peaks and power."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from compress.config.checks import MAX_OPSET, check, check_names, check_opset, check_plain

HOST = "host"  # name of the device that is this machine
PRECISIONS = ("fp32", "fp16", "int8")
FIGURES = ("bandwidth_gb_s", "memory_gb", "idle_watts", "loaded_watts")  # keys of single figures


class Basis(Enum):
    """What a figure of a device stands on."""

    published = "published"  # stated by the maker, or measured and published
    derived = "derived"  # computed from published figures, such as clock x operations per cycle
    unverified = "unverified"  # stated without a primary source


@dataclass
class Figure:
    """A number of a device, with its source."""

    value: float
    source: str
    basis: Basis = Basis.published


@dataclass
class DeviceConfig:
    name: str = HOST
    # Used by runs that name no targets.
    targets: list[str] = field(default_factory=lambda: ["onnxruntime", "openvino", "tensorrt"])
    precisions: list[str] = field(default_factory=list)  # of its chip, preferred first; empty: the fastest measured
    int8_saturates: bool | None = None  # U8 x S8 products are added in 16 bits; null: measured on this machine
    opset: int = MAX_OPSET  # newest ONNX opset that its runtimes read
    # None or absent: not known.
    peak_gops: dict[str, Figure] = field(default_factory=dict)  # dense 10^9 operations/s by precision; 1 MAC = 2
    bandwidth_gb_s: Figure | None = None  # of its memory, 10^9 bytes/s
    memory_gb: Figure | None = None
    idle_watts: Figure | None = None  # of the whole board, unless its source says otherwise
    loaded_watts: Figure | None = None  # likewise, during inference

    def __post_init__(self) -> None:
        check_plain(self, "device")
        check_opset("device.opset", self.opset)
        check_names("device.targets", self.targets)
        check_names("device.precisions", self.precisions)
        for precision in self.precisions:
            check(precision in PRECISIONS, "device.precisions", precision, f"choose from {', '.join(PRECISIONS)}")
        for precision in self.peak_gops:
            check(precision in PRECISIONS, "device.peak_gops", precision, f"choose from {', '.join(PRECISIONS)}")
        for key, figure in self.figures().items():
            good = 0 < figure.value < math.inf
            check(good, f"device.{key}.value", figure.value, "set a positive number, or the figure to null")
            remedy = "name the page, the table or the measurement that it is from"
            check(bool(figure.source.strip()), f"device.{key}.source", repr(figure.source), remedy)

    def energy_mj(self, ms: float) -> float | None:
        """Energy of `ms` milliseconds by the power of the board under load (W x ms = mJ); None if that is not known."""
        return None if self.loaded_watts is None else self.loaded_watts.value * ms

    def figures(self) -> dict[str, Figure]:
        """The known figures, by key: "peak_gops.int8", "bandwidth_gb_s"."""
        single = {name: getattr(self, name) for name in FIGURES}
        peaks = {f"peak_gops.{precision}": figure for precision, figure in self.peak_gops.items()}
        return {**peaks, **{name: figure for name, figure in single.items() if figure is not None}}
