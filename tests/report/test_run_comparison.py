from __future__ import annotations

import re
from pathlib import Path

import pytest

from compress.errors import UserError
from compress.report.bench_results import add
from compress.report.run_comparison import compare
from tests.report.ledgers import rows, write_bench, write_run


def test_final_rows_are_compared_with_those_of_the_first_run(run: Path, tmp_path: Path) -> None:
    ledger = rows()
    [int8] = [r for r in ledger if (r["stage"], r["target"], r["precision"]) == ("export", "onnxruntime", "int8")]
    int8["latency_ms"]["median"] = 1.49
    other = write_run(tmp_path / "drone_nano" / "other", ledger)
    lines = compare([run, other]).splitlines()
    line = next(x for x in lines if re.match(r"onnxruntime +int8 ", x) and "drone_nano/other" in x)
    assert line.endswith("acc 0.0000  lat ×0.50") and "export" in line
    assert not any(x.startswith("onnxruntime") and "finetune" in x for x in lines)
    assert "drone_nano/other: budget not met" in lines


def test_rows_of_another_device_are_in_a_section_of_their_own(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "drone_nano" / "other")
    add(other, write_bench(other))
    lines = [line for line in compare([run, other]).splitlines() if re.match(r"tensorrt +int8 ", line)]
    assert [("Jetson" in line, line.endswith("–")) for line in lines] == [(False, True), (False, False), (True, True)]


def test_one_run_is_no_comparison(run: Path) -> None:
    with pytest.raises(UserError, match="at least two"):
        compare([run])
    with pytest.raises(UserError, match="compare=nothing"):
        compare([])
