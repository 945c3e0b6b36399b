from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

from rich.console import Console

from compress.report import print_table
from compress.report.terminal_table import table
from tests.report.ledgers import row, rows, typed, verdict


def test_table_has_every_row_and_no_escape_codes() -> None:
    text = table(typed(*rows()))
    assert "\x1b" not in text
    assert sum(line.startswith(("load", "prune", "finetune", "quantize", "export")) for line in text.splitlines()) == 18
    assert (
        "lat ×0.76 (f32→int8)" in text
        and "97.2\N{NO-BREAK SPACE}% (by graph)" in text
        and "0.4733 [0.4609, 0.4857] (emulated)" in text
    )


def test_a_narrow_terminal_names_the_omitted_columns(run: Path) -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120)
    print_table(run, console)
    assert isinstance(console.file, StringIO)
    text = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())
    assert "Omitted here, see report.html: p95, GMACs" in text
    assert "MISSED  quantize.max_accuracy_drop [onnxruntime/int8]: 0.00484, limit 0.0048 absolute" in text
    assert "verdict: Budget not met" in text


def test_a_pipe_gets_all_columns_and_the_verdict(run: Path) -> None:
    contract = {"name": "contract.same", "target": "openvino", "precision": "int8", "limit": 1, "value": 0, "unit": ""}
    changed = verdict() | {"failures": {"ncnn": "no such operator"}}
    changed["checks"].append(contract)
    (run / "verdict.json").write_text(json.dumps(changed))
    console = Console(file=StringIO(), width=40)
    print_table(run, console)
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert "GMACs" in text and "Omitted" not in text and "Accuracy is mAP50-95." in text
    assert "met     1 acceptance checks of exported artifacts (openvino)" in text and "contract.same" not in text
    assert "unknown budget.latency_ms [tensorrt/int8]: –, limit 4 ms" in text
    assert "FAILED  ncnn: no such operator" in text and text.rstrip().endswith("verdict: Budget not met")


def test_a_cached_stage_is_marked() -> None:
    assert "prune (cached)" in table(typed(row("load"), row("prune", cached=True)))


def test_a_baseline_that_knows_nothing_stands_out(run: Path) -> None:
    remarks = [{"kind": "baseline_knows_nothing", "text": "It guesses."}, {"kind": "other", "text": "It runs."}]
    (run / "verdict.json").write_text(json.dumps(verdict() | {"remarks": remarks}))
    console = Console(file=StringIO(), force_terminal=True, width=120)
    print_table(run, console)
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert "\x1b[1;33m• It guesses." in text and "\n• It runs." in text


def test_stages_are_separated_and_numbers_aligned_right() -> None:
    lines = table(typed(row("load"), row("load", "ncnn"), row("prune", macs=21_000_000_000))).splitlines()
    assert [line[:5].strip() for line in lines[2:]] == ["load", "load", "", "prune"]
    gflops = [line.index(value) + len(value) for line, value in zip(lines[2:6:3], ("0.437", "42.000"))]
    assert gflops[0] == gflops[1]
