from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compress.ledger import SCHEMA_VERSION, Ledger, Row

ROOT = Path(__file__).parents[1]

# The contract's table of ledger fields, and what the house adds to it.
CONTRACT = """
    schema_version run_id stage target precision imgsz cached macs flops other_flops bit_operations int8_mac_share
    params size_bytes bytes_moved activation_bytes arena_bytes accuracy latency_ms energy_mj
""".split()
ADDED = ["flops_at_640", "int8_mac_share_obtained", "onnx_size_bytes"]


def row(**facts: object) -> Row:
    return Row(**{"stage": "load", "target": None, "precision": "fp32", "imgsz": 256, "macs": 1000, **facts})


def test_fields_are_those_of_the_contract() -> None:
    assert sorted(row().as_dict("r")) == sorted(CONTRACT + ADDED)


def test_values_survive_the_way_to_disk(tmp_path: Path) -> None:
    accuracy = {"metric": "map50_95", "value": 0.31, "images": 100, "ci95": [0.3, 0.32], "obtained": "measured"}
    latency = {"median": 4.2, "p95": 5.0, "runtime": "openvino", "threads": 2, "batch": 1, "device": "host"}
    full = row(
        stage="export", target="openvino", precision="int8", other_flops=7, int8_mac_share=0.5,
        int8_mac_share_obtained="runtime", params=9, size_bytes=11, bytes_moved=13, activation_bytes=17,
        accuracy=accuracy, latency_ms=latency, energy_mj={"value": 1.0, "obtained": "predicted"}, cached=True,
    )  # fmt: skip
    Ledger(tmp_path / "ledger.jsonl", "today").append(full)
    read = json.loads((tmp_path / "ledger.jsonl").read_text())
    assert read == full.as_dict("today")
    assert (read["schema_version"], read["run_id"], read["target"]) == (SCHEMA_VERSION, "today", "openvino")
    assert (read["accuracy"], read["latency_ms"], read["cached"]) == (accuracy, latency, True)


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
