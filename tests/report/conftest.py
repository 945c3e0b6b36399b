from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report.ledgers import config, row, verdict, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "drone_nano" / "20261121_171500")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweeps" / "drone_nano" / "20261121_180000"
    for i, (ratio, macs, value) in enumerate([(0.1, 350_000_000, 0.48), (0.3, 220_000_000, 0.46), (0.5, 1, 0.1)]):
        ledger = [row("load", macs=400_000_000, accuracy=0.49), row("finetune", macs=macs, accuracy=value)]
        point = write_run(folder / str(i), ledger)
        (point / "config.yaml").write_text(config(ratio))
        (point / "verdict.json").write_text(json.dumps(verdict() | ({"checks": []} if i == 0 else {})))
    (folder / "2" / "verdict.json").unlink()
    (folder / "3").mkdir()
    (folder / "3" / "config.yaml").write_text(config(0.7))
    (folder / "4").mkdir()
    (folder / "4" / "failed.json").write_text('{"error": "budget.flops=0%: give more than 0"}')
    (folder / ".submitit").mkdir()
    return folder
