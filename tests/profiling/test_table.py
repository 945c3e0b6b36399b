from __future__ import annotations

import csv
import io
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from compress.profiling import table
from tests.profiling.profiles import LAYERS, PROFILE, ROOF


def text(rich_table: Table) -> list[str]:
    console = Console(file=io.StringIO(), width=300)
    console.print(rich_table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()[2:]


def test_a_model_has_one_row_of_costs() -> None:
    (row,) = text(table.models([PROFILE]))
    assert row.split()[:7] == ["net", "32", "12", "0.001", "0.002", "0.002", "0.01"]


def test_a_runtime_that_fails_says_why() -> None:
    first, second = text(table.speeds([PROFILE]))
    assert "800" in first.split() and "8.0%" in first and "10.0%" in first
    assert "openvino" in second and "no Gemm" in second


def test_layers_are_sorted_and_marked() -> None:
    by_time = text(table.layers(PROFILE, "time", 0))
    assert [row.split()[0] for row in by_time] == ["stem.conv", "stem.act", "(runtime)", "head.<b>"]
    assert [row.rstrip().endswith(table.MARK) for row in by_time] == [False, True, True, False]
    assert "fused" in by_time[3]
    assert next(layer.name for layer in table.ordered(PROFILE, "bytes")) == "stem.act"
    assert table.ordered(PROFILE, "order") == list(LAYERS)
    assert len(text(table.layers(PROFILE, "flops", 2))) == 2
    assert "2 layers take 50% of the time and 0.0% of the FLOPs" in table.dear_text(PROFILE)


def test_kinds_of_layers_are_summed() -> None:
    assert [row.split()[0] for row in text(table.kinds(PROFILE, most=2))] == ["Conv", "Sigmoid,"]


def test_csv_has_one_line_per_layer() -> None:
    rows = list(csv.DictReader(io.StringIO(table.as_csv([PROFILE, PROFILE], "order"))))
    assert len(rows) == 2 * len(LAYERS)
    assert rows[0]["flops"] == "8000000" and rows[0]["output"] == "1x16x32x32" and rows[1]["dear"] == "True"


def test_arithmetic_outside_products_is_shown_by_kind() -> None:
    assert table.arithmetic(PROFILE) == ["net: other FLOPs: activation 81%, bias 19%"]
    (_, line) = table.arithmetic(replace(PROFILE, unknown={"Det": 2}))
    assert line == "net: not counted, without a formula: Det (2); all figures are lower bounds"


def test_the_machine_is_described() -> None:
    line = table.machine(ROOF)
    assert "100 GFLOPS f32 (ridge 10 per byte)" in line and "400 GOPS int8" in line and "10.0 GB/s" in line
