from __future__ import annotations

import csv
from pathlib import Path

from compress.report.sweep_choice import choose
from compress.report.sweep_csv import write
from compress.report.sweep_reader import read_sweep, varying_keys
from tests.report.test_sweep_choice import write_point


def read(sweep: Path) -> list[dict[str, str]]:
    points = read_sweep(sweep)
    keys = varying_keys(points)
    with open(write(sweep, points, keys, choose(points, keys)), newline="") as file:
        return list(csv.DictReader(file))


def test_every_product_of_every_point_has_a_line(tmp_path: Path) -> None:
    write_point(tmp_path, "0.1", 300, 0.5, ms=2.5, predicted=9.0)
    config = tmp_path / "0.1" / "config.yaml"
    config.write_text("# python -m compress recipe=a 'prune.ratio=0.1'\n" + config.read_text())
    write_point(tmp_path, "0.3", 200, 0.4)
    (tmp_path / "0.5").mkdir()
    (tmp_path / "0.5" / "failed.json").write_text('{"error": "a, b"}')
    lines = read(tmp_path)
    shown = [(line["point"], line["runtime"], line["precision"], line["chosen"]) for line in lines]
    assert shown == [
        ("0.1", "torch", "fp32", "1"),
        ("0.1", "openvino", "int8", "1"),
        ("0.3", "torch", "fp32", "0"),
        ("0.5", "", "", "0"),
        ("baseline", "torch", "fp32", ""),
    ]
    file, failed = lines[1], lines[3]
    assert (file["prune.ratio"], file["flops"], file["accuracy"]) == ("0.1", "600", "0.5")
    assert (file["latency_ms"], file["predicted_ms"], file["predicted_device"]) == ("2.5", "9.0", "host")
    assert file["command"] == "python -m compress recipe=a 'prune.ratio=0.1'"
    assert failed["status"] == "failed" and failed["reason"] == "a, b"


def test_a_sweep_without_measurements_has_lines_too(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "failed.json").write_text('{"error": "no data"}')
    assert [(line["point"], line["reason"]) for line in read(tmp_path)] == [("0", "no data")]
