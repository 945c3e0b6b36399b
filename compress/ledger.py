"""The ledger: one row per weighing, on disk the moment it is known. Tools read these fields: see SCHEMA_VERSION."""

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
    """What one weighing found. Sizes in bytes; `macs` and `flops` of the fused graph as deployed."""

    stage: str
    target: str | None
    precision: str
    imgsz: int
    macs: int
    flops_at_640: int | None = None  # of detectors, whose published tables stand at 640 px
    other_flops: int | None = None
    int8_mac_share: float | None = None
    int8_mac_share_obtained: str | None = None  # "runtime" where the runtime tells, "graph" from Q/DQ placement
    params: int | None = None
    size_bytes: int | None = None  # of a target's files; of a torch model, its checkpoint's model.safetensors
    onnx_size_bytes: int | None = None  # of the ONNX file where size_bytes is that of an engine built of it
    bytes_moved: int | None = None
    activation_bytes: int | None = None
    arena_bytes: int | None = None  # of the tensors as the target lays them out in memory, where that is known
    accuracy: Mapping[str, Any] | None = None  # metric, value, images, ci95, obtained; others: {split: the same}
    latency_ms: Mapping[str, Any] | None = None  # median, p95, runtime, threads, batch, …, obtained
    energy_mj: Mapping[str, Any] | None = None
    cached: bool = False  # the stage's product came from the cache; the row itself is always weighed anew

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def bit_operations(self) -> int:
        """Sum of macs x weight bits x activation bits; MACs that are not INT8 have the file's float width."""
        wide = 16 if self.precision == "fp16" else 32
        share = self.int8_mac_share or 0.0
        return round(self.macs * (share * 8 * 8 + (1 - share) * wide * wide))

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
