"""The ledger: one JSON line per measured product, written as soon as it is known. Other tools read these fields; a
change of them is a change of SCHEMA_VERSION."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from compress import typed_json
from compress.errors import UserError

SCHEMA_VERSION = 1
AGREEMENT = "agreement "  # begins the name of a metric whose targets are predictions of the unpruned model, not labels
ALWAYS_WRITTEN = ("median", "p95", "threads", "batch", "inference_precision", "device")  # fields of latency_ms


class Provenance(StrEnum):
    """How a number was obtained."""

    measured = "measured"
    predicted = "predicted"
    emulated = "emulated"  # computed by another runtime than the one that the file is for
    not_run = "not_run"


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on a validation split, in [0, 1]."""

    metric: str
    value: float
    images: int = 0
    ci95: tuple[float, float] | None = None  # 95 % bootstrap interval
    map50: float | None = None  # detectors
    chance: float | None = None  # classifiers: value of always ranking the classes by their frequency
    details: Mapping[str, float] = field(default_factory=dict)  # further figures, which decide nothing
    per_class: Mapping[str, float] = field(default_factory=dict)  # AP, or fraction recognised, of labelled classes
    confusion: tuple[tuple[int, ...], ...] = ()  # classifiers: number of images by label (row) and predicted class
    obtained: Provenance | None = None  # None in `others`, which were obtained as this was
    others: Mapping[str, Accuracy] = field(default_factory=dict)  # splits that are reported and not judged

    @property
    def is_agreement(self) -> bool:
        """True if there were no labels: the value is the agreement with the unpruned model's predictions."""
        return self.metric.startswith(AGREEMENT)


@dataclass(frozen=True)
class OperatingPoint:
    """Precision and recall of the instances (boxes, masks, …) that score at least `threshold`, at an overlap of 0.5."""

    threshold: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Thresholds:
    """An operating point of the baseline, and the one of this product that has the same precision. See
    `compress.tasks.thresholds`."""

    baseline: OperatingPoint
    artifact: OperatingPoint | None = None
    reason: str | None = None  # why there is no such point


@dataclass(frozen=True)
class Latency:
    """Latency of one image, in milliseconds. `low` and `high` bound the median during the measurement; `ratio` is that
    to the baseline in the same runtime, measured in turns."""

    median: float | None = None
    p95: float | None = None
    runs: int | None = None
    low: float | None = None
    high: float | None = None
    cpu_wait: float | None = None  # fraction of the time that threads waited for a CPU
    contended: bool | None = None
    ratio: float | None = None
    ratio_ci95: tuple[float, float] | None = None
    runtime: str | None = None
    threads: int | None = None
    batch: int | None = None
    inference_precision: str | None = None  # what the runtime computed in
    device: str | None = None
    obtained: Provenance | None = None
    peak_memory_bytes: int | None = None  # reported by the bench kit of a device
    drift: float | None = None  # median of the last quarter of the runs / median of the first - 1
    celsius: float | None = None  # of the hottest sensor of the device
    throttled: bool | None = None  # the system slowed the CPU down
    measured_at: str | None = None  # local time, ISO 8601
    reused: bool | None = None  # measured by an earlier run


@dataclass(frozen=True)
class EndToEnd:
    """Latency of one image from the file to the predictions, in milliseconds; `prepare`, `inference` and `decode` are
    the medians of its parts."""

    median: float
    p95: float
    prepare: float  # reading, decoding, resizing, scaling
    inference: float
    decode: float  # of the outputs
    images: int


@dataclass(frozen=True)
class Energy:
    """Energy of one image, in millijoules."""

    value: float
    obtained: Provenance | None = None
    source: str | None = None  # the counter, the sensor, or the power that it was computed from


@dataclass(frozen=True)
class Row:
    """The measurements of one product. Sizes in bytes; `macs` and `flops` of the fused graph as deployed."""

    stage: str
    target: str | None
    precision: str
    imgsz: int
    macs: int
    flops_at_640: int | None = None  # detectors only: their published tables are for 640 px
    other_flops: int | None = None
    int8_mac_share: float | None = None
    int8_mac_share_obtained: str | None = None  # reported by the "runtime", or read from the Q/DQ nodes of the "graph"
    params: int | None = None
    size_bytes: int | None = None  # all files of a target; torch: its checkpoint's model.safetensors
    onnx_size_bytes: int | None = None  # the ONNX file, if size_bytes is that of an engine built from it
    bytes_moved: int | None = None
    activation_bytes: int | None = None
    arena_bytes: int | None = None  # tensors as the target places them in memory, if the target reports it
    accuracy: Accuracy | None = None
    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)  # by operating point of the baseline; detectors
    latency_ms: Latency | None = None
    end_to_end_ms: EndToEnd | None = None
    roof_fraction: float | None = None  # of the FLOPS that this machine's peak and memory bandwidth allow
    energy_mj: Energy | None = None
    cached: bool = False  # the product came from the cache, or the measurements did

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def target_name(self) -> str:
        """The target; for a product without one "torch", or "as given" for a model file run by another runtime."""
        runtime = (self.latency_ms and self.latency_ms.runtime) or "torch"
        return self.target or ("torch" if runtime.startswith("torch") else "as given")

    @property
    def bit_operations(self) -> int:
        """Sum of MACs x weight bits x activation bits; MACs outside INT8 count with the float width of the file."""
        wide = 16 if self.precision == "fp16" else 32
        int8 = self.int8_mac_share or 0.0
        return round(self.macs * (int8 * 8 * 8 + (1 - int8) * wide * wide))

    @property
    def achieved_gflops(self) -> float | None:
        """10^9 FLOPs per second: those of one image / its median latency. Speed, where `flops` is work."""
        median = self.latency_ms and self.latency_ms.median
        return self.flops / median / 1e6 if median else None

    def as_dict(self, run_id: str) -> dict[str, Any]:
        head = {"schema_version": SCHEMA_VERSION, "run_id": run_id}
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("accuracy", "latency_ms", "end_to_end_ms", "energy_mj"):
            values[name] = values[name] and asdict(values[name], dict_factory=_set_fields)
        values["thresholds"] = {name: asdict(each) for name, each in self.thresholds.items()}
        derived = {name: getattr(self, name) for name in ("flops", "bit_operations", "achieved_gflops")}
        return {**head, **values, **derived}


def _set_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an accuracy, latency or energy that are written: those that have a value, and ALWAYS_WRITTEN."""
    written = [(name, value) for name, value in pairs if value not in (None, {}, ()) or name in ALWAYS_WRITTEN]
    return {name: _as_lists(value) for name, value in written}


def _as_lists(value: Any) -> Any:
    return [_as_lists(each) for each in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class _Header:
    schema_version: int = SCHEMA_VERSION


def read(path: Path) -> list[Row]:
    """The rows of a ledger of this version or an older one. A last line that is no row and does not end with a newline
    was interrupted by the end of the process, and is left out.

    Raises:
        OSError: the file cannot be read.
        UserError: another line is no row; file, line and field are named.
    """
    rows, remedy = list[Row](), "restore the file or remove the line"
    for number, line in lines(path).items():
        name = f"{path}: line {number}"
        try:
            version = typed_json.parse(_Header, line, name, remedy).schema_version
            if version != SCHEMA_VERSION:
                raise UserError(f"{name}: schema_version", version, f"this program reads {SCHEMA_VERSION}")
            rows.append(typed_json.parse(Row, line, name, remedy))
        except UserError:
            if line.endswith("\n"):
                raise
    return rows


def lines(path: Path) -> dict[int, str]:
    """The lines of a ledger that are not blank, with their ends, by number from 1."""
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        return {number: line for number, line in enumerate(file, start=1) if line.strip()}


class Ledger:
    """Rows of one run, appended to `path` as JSON lines and kept in memory."""

    def __init__(self, path: Path, run_id: str) -> None:
        self.path, self.run_id = path, run_id
        self.rows: list[Row] = []

    def append(self, row: Row) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row.as_dict(self.run_id)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
