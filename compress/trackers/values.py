"""Rows of the ledger, configuration and verdict as names, numbers and texts, for experiment trackers."""

from __future__ import annotations

import json
from typing import Any

import yaml

from compress.budget import Verdict
from compress.config import Config, dump
from compress.ledger import Row

COUNTS = ("flops", "params", "size_bytes", "activation_bytes", "int8_mac_share")  # fields of rows that are metrics


def of_row(row: Row) -> dict[str, float]:
    """{`onnxruntime.int8.accuracy`: value} of everything that was measured. Units are those of the ledger; accuracy is
    the value of the metric."""
    values: dict[str, float | None] = {name: getattr(row, name) for name in COUNTS}
    values["accuracy"] = row.accuracy.value if row.accuracy else None
    values["latency_ms"] = row.latency_ms.median if row.latency_ms else None
    values["energy_mj"] = row.energy_mj.value if row.energy_mj else None
    prefix = f"{row.target_name.replace(' ', '_')}.{row.precision}"
    return {f"{prefix}.{name}": float(value) for name, value in values.items() if value is not None}


def parameters(config: Config) -> dict[str, str]:
    """{full key: value} of the configuration, without the section `mlflow`. Texts are as they are, other values as
    JSON."""
    content = yaml.safe_load(dump(config))
    del content["mlflow"]
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in _flat(content, "")}


def verdict_word(verdict: Verdict) -> str:
    """`met`, `missed` or `undetermined`."""
    return {True: "met", False: "missed", None: "undetermined"}[verdict.met]


def _flat(value: Any, key: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        return [(key, value)]
    return [pair for name, each in value.items() for pair in _flat(each, f"{key}.{name}".lstrip("."))]
