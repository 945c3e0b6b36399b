from __future__ import annotations

import re
from dataclasses import replace

import pytest

from compress.report import plots
from compress.report.plots import waterfall
from tests.report.ledgers import row, rows, score, timing, typed


def test_a_stage_is_drawn_by_its_narrowest_file() -> None:
    files = [row("load"), row("export", "ncnn"), row("export", "ncnn", "fp16")]
    ledger = [replace(each, macs=3_906_250) for each in typed(*files)]
    drawn = waterfall(ledger, lambda each: each.bit_operations, "G bit ops")
    assert "4 G bit ops" in drawn and "1 G bit ops  −75.0 %" in drawn
    unchanged = typed(row("prune"), row("finetune"))
    assert " %" not in waterfall(unchanged, lambda each: each.flops, "GFLOPs"), "fine-tuning removes no FLOPs"


def test_latencies_of_different_devices_are_in_different_charts() -> None:
    there = row("export", "openvino", accuracy=0.4) | {"latency_ms": timing("openvino", 9.0, "int8", device="jetson")}
    ledger = typed(row("load", "openvino", macs=5, accuracy=0.5, latency=(4.0, "f32")), there)
    headings = [chart.heading for chart in plots.trade_offs(ledger)]
    assert headings == [f"Accuracy against {cost}" for cost in ("FLOPs", "latency, host", "latency, jetson")]
    assert [chart.drawing.count("<circle") for chart in plots.trade_offs(ledger)] == [2, 1, 1]
    assert (
        "at 4</title>" in plots.trade_offs(ledger)[1].drawing and "at 9</title>" in plots.trade_offs(ledger)[2].drawing
    )
    assert [chart.heading for chart in plots.latencies_and_sizes(ledger)] == [
        f"Median latency, {device} (ms)" for device in ("host", "jetson")
    ]


def test_a_file_that_was_measured_twice_is_one_point_and_one_bar() -> None:
    ledger = typed(*(row("export", "ncnn", "int8", accuracy=value, size_bytes=5_000_000) for value in (0.4, 0.5)))
    [chart] = plots.trade_offs(ledger)
    assert "ncnn int8: 0.5000" in chart.drawing and "int8: 0.4000" not in chart.drawing
    [sizes] = plots.latencies_and_sizes(ledger)
    assert sizes.drawing.count("5.00 MB</text>") == 1


def test_a_pruned_model_is_left_out_only_before_fine_tuning() -> None:
    pruned = [row("load", accuracy=0.5), row("prune", accuracy=0.01)]
    assert plots.trade_offs(typed(*pruned))[0].note == ""
    chart = plots.trade_offs(typed(*pruned, row("finetune", accuracy=0.4)))[0]
    assert chart.note.startswith("Not drawn: prune 0.0100") and "prune" not in chart.drawing


def test_points_state_provenance_and_interval() -> None:
    [measured, emulated] = typed(row("load", accuracy=0.5), row("load") | {"accuracy": score(0.5, "emulated")})
    point = plots.point(measured, "0", "label", "name")
    assert (point.x, point.y, point.hollow) == (measured.flops / 1e9, 0.5, False)
    assert point.tooltip == "name: 0.5000 [0.4876, 0.5124]" and (point.low, point.high) == (0.5 - 0.0124, 0.5 + 0.0124)
    assert plots.point(emulated, "0", "label", "name").hollow


def test_charts_without_values_are_left_out() -> None:
    assert (
        plots.trade_offs(typed(row("load"))) == plots.latencies_and_sizes(typed(row("load"))) == plots.costs([]) == []
    )
    assert plots.metric(typed(row("load"))) == "accuracy" and plots.metric(typed(*rows())) == "mAP50-95"


def test_sizes_are_drawn_to_scale() -> None:
    sizes = [row(stage, "ncnn", size_bytes=size) for stage, size in (("load", 4_000_000), ("export", 1_000_000))]
    [chart] = plots.latencies_and_sizes(typed(*sizes))
    first, second = (float(width) for width in re.findall(r'<rect.*? width="([\d.]+)"', chart.drawing))
    assert first == pytest.approx(4 * second, abs=0.3)
