"""Logs one line per measurement."""

from __future__ import annotations

import logging

from compress.ledger import Row
from compress.trackers.tracker import Tracker
from compress.units import format_flops

log = logging.getLogger(__name__)


class LogTracker(Tracker):
    """`finetune openvino fp32: 415M FLOPs, mAP50-95 0.6426, 1.32 ms`."""

    def row(self, row: Row) -> None:
        parts = [f"{format_flops(row.flops)} FLOPs"]
        if row.accuracy:
            parts.append(f"{row.accuracy.metric} {row.accuracy.value:.4f}")
        if row.latency_ms and row.latency_ms.median is not None:
            parts.append(f"{row.latency_ms.median:.2f} ms")
        log.info("measured %s %s %s: %s", row.stage, row.target_name, row.precision, ", ".join(parts))
