from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.report.sweep_choice import by_setting, choose, files
from compress.report.sweep_reader import read_sweep, varying_keys
from tests.report.ledgers import row, score, timing, write_run

KEYS = ["prune.ratio"]


def write_point(
    sweep: Path, name: str, macs: int, accuracy: float, *, ms: float | None = None, met: bool | None = True,
    limited: bool = False, device: str = "host", predicted: float | None = None, seed: int = 0,
) -> None:  # fmt: skip
    """A finished point with an INT8 file for OpenVINO if it has a latency or a prediction."""
    ledger = [row("load", macs=400, accuracy=0.5), row("finetune", macs=macs, accuracy=accuracy)]
    if ms is not None or predicted is not None:
        file = row("export", "openvino", "int8", macs=macs, accuracy=accuracy, int8=1.0)
        ledger.append(file | ({"latency_ms": timing("openvino", ms, "int8")} if ms else {}))
    folder = write_run(sweep / name, ledger)
    check: dict[str, Any] = {
        "name": "budget.max_accuracy_drop" if limited else "budget.size_mb",
        "target": None,
        "precision": None,
    }
    check |= {"limit": 0.02, "value": {True: 0.01, False: 0.03, None: None}[met], "unit": ""}
    numbers = {} if predicted is None else {"openvino/int8": predicted}
    remark = {"kind": "predicted_latency", "text": "predicted", "numbers": numbers}
    verdict: dict[str, Any] = {"schema_version": 1, "met": met, "checks": [check], "remarks": [remark], "failures": {}}
    (folder / "verdict.json").write_text(json.dumps(verdict))
    text = f"device: {{name: {device}}}\nprune: {{ratio: {name.partition('-')[0]}}}\nseed: {seed}\n"
    (folder / "config.yaml").write_text(text)


def chosen(sweep: Path) -> tuple[str, str]:
    points = read_sweep(sweep)
    choice = choose(points, varying_keys(points))
    assert choice is not None
    return choice.file.point.name, choice.reason


def test_the_cheapest_point_is_chosen_if_its_budget_limits_the_accuracy(tmp_path: Path) -> None:
    write_point(tmp_path, "0.1", 300, 0.50, limited=True)
    write_point(tmp_path, "0.3", 200, 0.30, limited=True)
    write_point(tmp_path, "0.5", 100, 0.10, limited=True, met=False)
    name, reason = chosen(tmp_path)
    assert name == "0.3" and "limits the accuracy" in reason and "0.000 MFLOPs" in reason
    assert "The most accurate one, 0.1, reaches 0.5000 (+0.2000)" in reason


def test_without_a_limit_points_within_one_standard_error_are_equally_accurate(tmp_path: Path) -> None:
    half = score(0.5)["ci95"][1] - 0.5
    write_point(tmp_path, "0.1", 300, 0.50)
    write_point(tmp_path, "0.3", 200, 0.50 - 0.9 * half / 1.96)
    write_point(tmp_path, "0.5", 100, 0.50 - 1.1 * half / 1.96)
    name, reason = chosen(tmp_path)
    assert name == "0.3" and "one standard error" in reason


def test_measured_latency_goes_before_predictions_and_these_before_flops(tmp_path: Path) -> None:
    write_point(tmp_path, "0.1", 300, 0.5, ms=1.0, predicted=9.0)
    write_point(tmp_path, "0.3", 200, 0.5, ms=2.0, predicted=8.0)
    assert chosen(tmp_path)[0] == "0.1", "1.0 ms on the deployment device, which is this machine"
    other = tmp_path / "other"
    write_point(other, "0.1", 300, 0.5, ms=1.0, predicted=9.0, device="pi")
    write_point(other, "0.3", 200, 0.5, ms=2.0, predicted=8.0, device="pi")
    name, reason = chosen(other)
    assert name == "0.3" and "8 ms predicted on pi (openvino int8)" in reason, "this machine is not the device"
    unknown = tmp_path / "unknown"
    write_point(unknown, "0.1", 100, 0.5, ms=2.0, predicted=None, device="pi")
    write_point(unknown, "0.3", 200, 0.5, ms=1.0, predicted=8.0, device="pi")
    assert chosen(unknown)[0] == "0.1", "one of them has no prediction, so FLOPs decide"


def test_equal_latencies_are_decided_by_flops(tmp_path: Path) -> None:
    write_point(tmp_path, "0.1", 300, 0.5, ms=1.00)
    write_point(tmp_path, "0.3", 200, 0.5, ms=1.01)
    assert chosen(tmp_path)[0] == "0.3"


def test_points_that_differ_only_in_their_seed_are_one_candidate(tmp_path: Path) -> None:
    for seed, value in enumerate((0.50, 0.40)):
        write_point(tmp_path, f"0.1-{seed}", 300, value, seed=seed)
        write_point(tmp_path, f"0.3-{seed}", 200, 0.46, seed=seed)
    points = read_sweep(tmp_path)
    groups = by_setting(points, varying_keys(points))
    assert [[point.name for point in group] for group in groups] == [["0.1-0", "0.1-1"], ["0.3-0", "0.3-1"]]
    assert chosen(tmp_path)[0] == "0.3-0", "its mean is higher, although the best point is another"


def test_a_setting_of_which_one_seed_misses_the_budget_is_no_candidate(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_point(tmp_path, f"0.1-{seed}", 300, 0.5, seed=seed)
        write_point(tmp_path, f"0.3-{seed}", 200, 0.5, seed=seed, met=seed == 0)
    name, reason = chosen(tmp_path)
    assert name == "0.1-0" and reason.startswith("The only point")


@pytest.mark.parametrize("met", [False, None])
def test_nothing_is_chosen_if_no_point_meets_its_budget(tmp_path: Path, met: Any) -> None:
    write_point(tmp_path, "0.1", 300, 0.5, met=met)
    (tmp_path / "0.3").mkdir()
    (tmp_path / "0.3" / "failed.json").write_text("{}")
    assert choose(read_sweep(tmp_path), KEYS) is None


def test_a_point_delivers_one_file_for_each_runtime(sweep: Path, run: Path) -> None:
    run.rename(sweep / "9")
    points = {point.name: point for point in read_sweep(sweep)}
    assert [file.name for file in files(points["9"])] == ["onnxruntime int8", "openvino fp32", "tensorrt int8"]
    assert [file.row.target for file in files(points["0"])] == [None], "its torch network"
    assert files(points["4"]) == []
