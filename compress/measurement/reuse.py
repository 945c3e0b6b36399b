"""Measurements of earlier runs: a product that is unchanged need not be measured again on the same machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress import ledger
from compress.cache import Cache
from compress.cached_graphs import environment
from compress.config import Config
from compress.data import DataSet
from compress.ledger import Ledger, Row
from compress.measurement import layer_latency
from compress.measurement.latency import timing_lock
from compress.product import Graph

VERSION = 1  # of what rows measure, and how
FILE = "row.jsonl"


@dataclass(frozen=True)
class Reuse:
    """The rows in a cache that were measured under the same conditions."""

    cache: Cache  # if it is not enabled, everything is measured again
    conditions: Mapping[str, Any]  # data, its selection, metric, threads, hardware; JSON-like

    def row(self, stage: str, parts: Mapping[str, Any], measure: Callable[[], Row]) -> Row:
        """The row that `measure` returns, or the one that it returned before for the same `parts`: all that was
        measured and what it was compared with. That row is `cached`, and its latency states when it was measured. A row
        that was timed while other programs used the CPU is measured again. Exceptions of `measure` are raised."""

        def make(folder: Path) -> None:
            (folder / FILE).unlink(missing_ok=True)  # of an interrupted call
            Ledger(folder / FILE, "").append(measure())

        inputs = {"version": VERSION, "stage": stage, **parts, **self.conditions, **environment()}
        folder, cached = self.cache.fetch("measure", inputs, make, lambda folder: not _contended(_read(folder)))
        row = _read(folder)
        if not cached:
            return row
        return replace(row, cached=True, latency_ms=row.latency_ms and replace(row.latency_ms, reused=True))

    def node_seconds(self, path: Path, image: np.ndarray, threads: int) -> dict[str, float]:
        """What `layer_latency.node_seconds` returns, or returned before for the same file."""

        def measure() -> dict[str, float]:
            with timing_lock():
                return layer_latency.node_seconds(path, image, threads)

        graph = hashlib.sha256(path.read_bytes()).hexdigest()
        inputs = {"version": VERSION, "graph": graph, "threads": threads, **environment()}
        seconds: dict[str, float] = self.cache.fetch_value("layers", inputs, measure)
        return seconds


def conditions(config: Config, data: DataSet, device: torch.device) -> dict[str, Any]:
    """What all measurements of a run depend on."""
    used = asdict(config)
    selected = {name: used[name] for name in ("data", "metric", "task", "threads", "seed")}
    sizes = {name: len(split) for name, split in {"validation": data.validation, **data.extra}.items()}
    return {"fingerprint": data.fingerprint, "images": sizes, "computed_on": device.type, **selected}


def graph_key(graph: Graph) -> dict[str, Any]:
    """What the measurements of a graph depend on."""
    engine = graph.engine is not None
    return {**graph.as_dict(graph.path.parent), "contents": graph.contents(), "engine": engine}


def _read(folder: Path) -> Row:
    return ledger.read(folder / FILE)[0]


def _contended(row: Row) -> bool:
    return bool(row.latency_ms and row.latency_ms.contended)
