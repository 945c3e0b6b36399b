"""Builds ledgers of a run that halves the FLOPs of a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compress.budget import Check, Verdict, judge
from compress.config import BudgetConfig, DeviceConfig
from compress.ledger import Accuracy, Latency, Provenance, Row

FULL = 1_000_000  # FLOPs of the network before pruning


def row(
    stage: str = "load", target: str | None = None, precision: str = "fp32", *,
    flops: int = FULL, accuracy: float | None = 0.9, ms: float | None = None, device: str | None = "host",
    obtained: str = "measured", size: int | None = 1_000_000, share: float | None = None,
) -> Row:  # fmt: skip
    share = (0.9 if precision == "int8" else 0.0) if share is None else share
    latency = None
    if target is not None:
        latency = Latency(ms, device=device, obtained=Provenance(obtained), inference_precision="bf16")
    result = None if accuracy is None else Accuracy("top1", accuracy)
    return Row(
        stage, target, precision, imgsz=16, macs=flops // 2, int8_mac_share=share,
        size_bytes=size, accuracy=result, latency_ms=latency,
    )  # fmt: skip


def ledger(*exported: Row, accuracy: float = 0.9, fp32_ms: float = 2.0) -> list[Row]:
    """A run that halves the FLOPs, with `exported` as its last rows."""
    return [
        row("load"),
        row("load", "openvino", ms=fp32_ms),
        row("prune", flops=FULL // 2, accuracy=0.5),
        row("finetune", flops=FULL // 2, accuracy=accuracy),
        row("finetune", "openvino", flops=FULL // 2, accuracy=accuracy, ms=fp32_ms / 2),
        *exported,
    ]


def fp32(**changes: Any) -> Row:
    return row("export", "openvino", "fp32", flops=FULL // 2, **{"ms": 1.0, **changes})


def int8(**changes: Any) -> Row:
    return row("export", "openvino", "int8", flops=FULL // 2, **{"ms": 0.8, "size": 400_000, **changes})


def verdict(rows: list[Row], *, device: str = "host", failures: dict[str, str] | None = None, **budget: Any) -> Verdict:
    return judge(BudgetConfig(**budget), 0.01, rows, failures or {}, DeviceConfig(device))


def check(result: Verdict, name: str) -> Check:
    [only] = [check for check in result.checks if check.name == name]
    return only


def timed(result: Row, **changes: Any) -> Row:
    assert result.latency_ms is not None
    return replace(result, latency_ms=replace(result.latency_ms, **changes))
