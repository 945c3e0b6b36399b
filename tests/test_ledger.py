from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.errors import UserError
from compress.ledger import SCHEMA_VERSION, Accuracy, Energy, Latency, Ledger, Provenance, Row, read

ROOT = Path(__file__).parents[1]

# The contract's table of ledger fields, and what was added to it.
CONTRACT = """
    schema_version run_id stage target precision imgsz cached macs flops other_flops bit_operations int8_mac_share
    params size_bytes bytes_moved activation_bytes arena_bytes accuracy latency_ms energy_mj
""".split()
ADDED = [
    "flops_at_640", "int8_mac_share_obtained", "onnx_size_bytes", "thresholds", "achieved_gflops", "roof_fraction",
    "end_to_end_ms",
]  # fmt: skip


def row(**changes: Any) -> Row:
    return replace(Row(stage="load", target=None, precision="fp32", imgsz=256, macs=1000), **changes)


def test_fields_are_those_of_the_contract() -> None:
    assert sorted(row().as_dict("r")) == sorted(CONTRACT + ADDED)


def test_values_survive_the_way_to_disk(tmp_path: Path) -> None:
    accuracy = Accuracy("mAP50-95", 0.31, 100, (0.3, 0.32), 0.5, details={"mAP50": 0.5}, per_class={"cow": 0.3},
                        confusion=((3, 1), (0, 2)), obtained=Provenance.measured,
                        others={"test": Accuracy("mAP50-95", 0.2, 10, (0.1, 0.3))})  # fmt: skip
    latency = Latency(4.2, 5.0, 80, ratio=0.5, ratio_ci95=(0.4, 0.6), runtime="openvino", threads=2, device="host",
                      obtained=Provenance.measured)  # fmt: skip
    full = row(
        stage="export", target="openvino", precision="int8", other_flops=7, int8_mac_share=0.5,
        int8_mac_share_obtained="runtime", params=9, size_bytes=11, bytes_moved=13, activation_bytes=17,
        accuracy=accuracy, latency_ms=latency, energy_mj=Energy(1.0, Provenance.predicted), cached=True,
    )  # fmt: skip
    Ledger(tmp_path / "ledger.jsonl", "today").append(full)
    written = json.loads((tmp_path / "ledger.jsonl").read_text())
    assert written == full.as_dict("today")
    assert (written["schema_version"], written["run_id"], written["target"]) == (SCHEMA_VERSION, "today", "openvino")
    assert written["energy_mj"] == {"value": 1.0, "obtained": "predicted"}
    assert written["accuracy"] == {
        "metric": "mAP50-95", "value": 0.31, "images": 100, "ci95": [0.3, 0.32], "map50": 0.5, "obtained": "measured",
        "details": {"mAP50": 0.5}, "per_class": {"cow": 0.3}, "confusion": [[3, 1], [0, 2]],
        "others": {"test": {"metric": "mAP50-95", "value": 0.2, "images": 10, "ci95": [0.1, 0.3]}},
    }  # fmt: skip
    assert written["latency_ms"] == {
        "median": 4.2, "p95": 5.0, "runs": 80, "ratio": 0.5, "ratio_ci95": [0.4, 0.6], "runtime": "openvino",
        "threads": 2, "batch": None, "inference_precision": None, "device": "host", "obtained": "measured",
    }  # fmt: skip
    assert read(tmp_path / "ledger.jsonl") == [full]


def test_rows_of_older_and_newer_versions_are_read(tmp_path: Path) -> None:
    """Fields that are absent have their default; fields that are not known are left out."""
    old = {
        "schema_version": 1,
        "run_id": "r",
        "stage": "load",
        "target": None,
        "precision": "fp32",
        "imgsz": 8,
        "macs": 1,
    }
    old |= {"accuracy": {"metric": "top1", "value": 1}, "latency_ms": {"median": None, "obtained": "not_run"}}
    path = tmp_path / "ledger.jsonl"
    path.write_text(json.dumps({**old, "of_tomorrow": 3}) + "\n\n")
    [result] = read(path)
    assert result.accuracy == Accuracy("top1", 1.0)
    assert result.latency_ms == Latency(None, obtained=Provenance.not_run)
    for damage in ("[]", '{"stage": "load"}', "{", json.dumps({**old, "schema_version": 2})):
        path.write_text(f"{json.dumps(old)}\n{damage}\n")
        with pytest.raises(UserError, match="ledger.jsonl: line 2"):
            read(path)
        path.write_text(f"{json.dumps(old)}\n{damage}")
        assert len(read(path)) == 1, "the process ended while it wrote the last line"


def test_a_mac_is_two_flops() -> None:
    assert row(macs=1234).flops == 2468
    assert row(macs=1234).as_dict("r")["flops"] == 2468


@pytest.mark.parametrize(
    ("precision", "share", "bits"),
    [
        ("fp32", 0.0, 1000 * 32 * 32),
        ("fp32", None, 1000 * 32 * 32),
        ("fp16", None, 1000 * 16 * 16),
        ("int8", 1.0, 1000 * 8 * 8),
        ("int8", 0.75, 750 * 8 * 8 + 250 * 32 * 32),
    ],
)
def test_bit_operations(precision: str, share: float | None, bits: int) -> None:
    assert row(precision=precision, int8_mac_share=share).bit_operations == bits


def test_rows_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, "r")
    for number, stage in enumerate(("load", "prune", "finetune"), start=1):
        ledger.append(row(stage=stage))
        assert len(path.read_text().splitlines()) == number
    assert [json.loads(line)["stage"] for line in path.read_text().splitlines()] == ["load", "prune", "finetune"]
    assert [each.stage for each in ledger.rows] == ["load", "prune", "finetune"]


def test_a_row_outlives_its_process(tmp_path: Path) -> None:
    """Written whole before `append` returns; and neither the ledger nor the budget needs torch."""
    script = """
import os, signal, sys
from pathlib import Path
from compress import budget, ledger
assert "torch" not in sys.modules
ledger.Ledger(Path("ledger.jsonl"), "r").append(ledger.Row("load", None, "fp32", 16, 5))
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    text = (tmp_path / "ledger.jsonl").read_text()
    assert text.endswith("}\n")
    assert json.loads(text)["flops"] == 10


def test_achieved_flops_are_work_divided_by_time() -> None:
    assert row(macs=500_000_000, latency_ms=Latency(10.0)).achieved_gflops == 100.0  # 1 GFLOP in 10 ms
    assert row(latency_ms=Latency()).achieved_gflops is None and row().achieved_gflops is None
