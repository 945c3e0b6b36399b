from __future__ import annotations

import json
from pathlib import Path

from compress.report.sweep_charts import Charts, charts, front
from compress.report.sweep_choice import choose
from compress.report.sweep_reader import read_sweep, varying_keys
from tests.report.ledgers import config, row, rows, verdict, write_run
from tests.report.test_sweep_choice import write_point


def draw(sweep: Path) -> Charts:
    points = read_sweep(sweep)
    keys = varying_keys(points)
    return charts(points, keys, choose(points, keys))


def test_the_line_connects_the_points_that_no_other_dominates() -> None:
    assert front([(3, 0.8), (1, 0.5), (2, 0.9), (1, 0.6), (4, 0.95)]) == [(1, 0.6), (2, 0.9), (4, 0.95)]


def test_the_chosen_runtime_comes_first(tmp_path: Path) -> None:
    for name, ratio in (("0", 0.1), ("1", 0.3)):
        folder = write_run(tmp_path / name, rows())
        (folder / "config.yaml").write_text(config(ratio))
        (folder / "verdict.json").write_text(json.dumps(verdict() | {"met": True, "checks": []}))
    main, others, legend = draw(tmp_path)
    headings = [chart.heading for chart in main]
    assert headings == ["Accuracy against FLOPs", "onnxruntime: measured latency, host", "onnxruntime: size"]
    assert [chart.heading for chart in others][-1] == "tensorrt: size"
    assert not any("tensorrt: measured" in chart.heading for chart in others), "it was not run"
    assert [name for name, _ in legend] == ["the point to choose", "budget met", "baseline"]
    assert all("baseline: 0.48" in chart.drawing for chart in main), "of torch, and of the FP32 file of the runtime"


def test_predicted_latencies_have_a_chart(tmp_path: Path) -> None:
    write_point(tmp_path, "0.1", 300, 0.5, predicted=9.0, device="pi")
    write_point(tmp_path, "0.3", 200, 0.5, predicted=8.0, device="pi")
    main, others, _ = draw(tmp_path)
    assert [chart.heading for chart in main] == ["Accuracy against FLOPs", "openvino: latency predicted for pi"]
    assert "0.3: 0.5000 at 8, openvino int8" in main[1].drawing and others == []


def test_points_that_differ_only_in_their_seed_are_one_mark_with_their_range(tmp_path: Path) -> None:
    for seed, value in enumerate((0.50, 0.40)):
        write_point(tmp_path, f"0.1-{seed}", 300, value, seed=seed)
        write_point(tmp_path, f"0.3-{seed}", 200, 0.48, seed=seed)
    drawing = draw(tmp_path).main[0].drawing
    assert "0.1-0, 0.1-1: mean 0.4500, 0.4000 to 0.5000" in drawing
    assert drawing.count("<circle") == 3, "two settings and the baseline"


def test_controls_are_drawn_with_the_points(tmp_path: Path) -> None:
    write_point(tmp_path, "0.1", 300, 0.5)
    control = row("smaller_input", macs=300, accuracy=0.45)
    (tmp_path / "0.1" / "controls.jsonl").write_text(json.dumps(control) + "\n")
    main, _, legend = draw(tmp_path)
    assert "smaller input, control of 0.1: 0.4500" in main[0].drawing and legend[-1][0] == "control"


def test_unfinished_points_are_not_drawn(tmp_path: Path) -> None:
    write_point(tmp_path, "0.1", 300, 0.5)
    (tmp_path / "0.1" / "verdict.json").unlink()
    assert draw(tmp_path) == Charts([], [], [])
