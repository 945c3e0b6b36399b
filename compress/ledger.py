"""The ledger: one JSON line per measured product, written as soon as it is known. Other tools read these fields; a
change of them is a change of SCHEMA_VERSION."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1


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
    int8_mac_share_obtained: str | None = (
        None  # "runtime" if the runtime reports it, "graph" if read from the Q/DQ placement
    )
    params: int | None = None
    size_bytes: int | None = None  # all files of a target; for a torch model its checkpoint's model.safetensors
    onnx_size_bytes: int | None = None  # the ONNX file, if size_bytes is that of an engine built from it
    bytes_moved: int | None = None
    activation_bytes: int | None = None
    arena_bytes: int | None = None  # tensors as the target places them in memory, if the target reports it
    accuracy: Mapping[str, Any] | None = None  # metric, value, images, ci95, obtained; others: {split: the same}
    latency_ms: Mapping[str, Any] | None = None  # median, p95, runtime, threads, batch, …, obtained
    energy_mj: Mapping[str, Any] | None = None
    cached: bool = False  # the product came from the cache; the row itself is always measured again

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def bit_operations(self) -> int:
        """Sum of MACs x weight bits x activation bits; MACs outside INT8 count with the float width of the file."""
        wide = 16 if self.precision == "fp16" else 32
        int8 = self.int8_mac_share or 0.0
        return round(self.macs * (int8 * 8 * 8 + (1 - int8) * wide * wide))

    def as_dict(self, run_id: str) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": run_id,
            **asdict(self),
            "flops": self.flops,
            "bit_operations": self.bit_operations,
        }


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
