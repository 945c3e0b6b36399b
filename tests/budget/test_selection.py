from __future__ import annotations

from dataclasses import replace

import pytest

from compress.budget import baseline, recommend
from compress.budget.selection import (
    accuracy_drop,
    energy_on,
    fastest_of,
    final_rows,
    from_another_device,
    latency_on,
    same_runtime_fp32,
    timed_on,
    to_deploy,
)
from compress.config import DeviceConfig, Figure
from compress.ledger import Energy
from compress.timing_noise import TIMING_NOISE
from tests.budget.conftest import FULL, fp32, int8, ledger, row, timed


@pytest.mark.parametrize(
    ("fp32_ms", "int8_ms", "best"),
    [
        (1.0, 0.5, "int8"),
        (1.0, 1.0, "int8"),
        (1.0, 1.0 + 0.9 * TIMING_NOISE, "int8"),  # a tie within noise
        (1.0, 1.0 + 1.1 * TIMING_NOISE, "fp32"),
        (1.0, 2.0, "fp32"),
        (None, 2.0, "int8"),  # only what was timed can be recommended for its speed
        (2.0, None, "fp32"),
        (None, None, "int8"),
    ],
)
def test_recommend(fp32_ms: float | None, int8_ms: float | None, best: str) -> None:
    rows = [fp32(ms=fp32_ms), int8(ms=int8_ms), row("export", "onnxruntime", "fp32", ms=0.01)]
    assert recommend(rows, "openvino").precision == best
    assert recommend(rows[::-1], "openvino").precision == best


def test_times_whose_ranges_meet_are_a_tie() -> None:
    scattered = timed(fp32(ms=1.0), low=0.9, high=1.3)
    assert recommend([scattered, timed(int8(ms=1.2), low=1.1, high=1.3)], "openvino").precision == "int8"
    assert recommend([scattered, timed(int8(ms=1.5), low=1.4, high=1.6)], "openvino").precision == "fp32"


def test_a_device_has_its_own_order_of_precisions() -> None:
    rows = [fp32(ms=1.0), int8(ms=3.0)]  # times of this machine
    assert recommend(rows, "openvino").precision == "fp32"
    assert recommend(rows, "openvino", ["int8", "fp32"]).precision == "int8"
    assert recommend(rows, "openvino", ["fp16"]).precision == "fp32"  # it made none of those: as without an order


def test_without_times_the_fewest_bit_operations_are_recommended() -> None:
    rows = [fp32(ms=None), row("export", "openvino", "fp16", flops=FULL // 2, ms=None), int8(ms=None)]
    assert recommend(rows[:2], "openvino").precision == "fp16"
    assert recommend(rows, "openvino").precision == "int8"


def test_the_baseline_is_the_last_row_before_anything_was_removed() -> None:
    loaded, trained = row("load", accuracy=0.1), row("train", accuracy=0.9)
    graph = row("train", "openvino", ms=1.0)
    rows = [loaded, row("load", "onnxruntime", ms=1.0), trained, graph, row("prune"), fp32()]
    assert baseline(rows) is trained and baseline(rows[:2]) is loaded
    assert baseline(rows, "openvino") is graph
    with pytest.raises(IndexError):
        baseline(rows, "tensorrt")


def test_the_result_is_what_was_exported_else_what_was_quantized() -> None:
    quantized, exported = row("quantize", "openvino", "int8", ms=1.0), fp32()
    assert final_rows([row("load"), row("export"), quantized, exported]) == [exported]  # no row of torch
    assert final_rows([row("load"), quantized]) == [quantized]
    assert final_rows([row("load"), row("finetune", "openvino", ms=1.0)]) == []


def test_int8_is_held_against_the_last_fp32_row_of_its_own_network_and_runtime_on_this_machine() -> None:
    wanted, pruned = fp32(accuracy=0.8), int8()
    others = [
        row("load", "openvino", ms=1.0),  # not pruned
        row("export", "onnxruntime", flops=FULL // 2, ms=1.0),
        fp32(device="Raspberry Pi 5"),
    ]
    assert same_runtime_fp32([fp32(accuracy=0.7), wanted, *others, pruned], pruned) is wanted
    assert same_runtime_fp32([*others, pruned], pruned) is None


def test_a_drop_needs_both_accuracies() -> None:
    assert accuracy_drop(row(accuracy=0.9), row(accuracy=0.95)) == pytest.approx(-0.05)
    assert accuracy_drop(row(accuracy=None), row()) is None
    assert accuracy_drop(row(), row(accuracy=None)) is None
    assert accuracy_drop(None, row()) is None


@pytest.mark.parametrize(
    ("device", "obtained", "there"),
    [
        ("Raspberry Pi 5", "measured", True),
        ("raspberry-pi 5 ", "measured", True),
        ("Raspberry Pi 4", "measured", False),
        ("Raspberry Pi 5", "predicted", False),
        ("host", "measured", False),
        (None, "not_run", False),
    ],
)
def test_a_time_counts_on_the_device_where_it_was_measured(device: str | None, obtained: str, there: bool) -> None:
    result = int8(ms=30.0, device=device, obtained=obtained)
    assert timed_on(result, "raspberry_pi_5") is there
    assert latency_on(result, "raspberry_pi_5") == (30.0 if there else None)
    assert from_another_device(result) is (device not in (None, "host"))


def test_a_row_without_a_time_is_from_no_device() -> None:
    assert not timed_on(row(), "host") and not from_another_device(row()) and latency_on(row(), "host") is None


def test_the_fastest_is_found_by_ratio_where_all_were_timed_in_turns() -> None:
    first, second = timed(fp32(ms=1.0), ratio=0.9), timed(int8(ms=1.2), ratio=0.6)
    assert fastest_of([first, second]) is second and fastest_of([second, first]) is second
    assert fastest_of([timed(first, ratio=None), second]).precision == "fp32"  # medians, where a ratio is missing


def test_rows_of_other_targets_are_not_recommended() -> None:
    result = recommend([*ledger(fp32(ms=5.0)), row("export", "onnxruntime", "int8", ms=0.1)][-2:], "openvino")
    assert (result.target, result.precision) == ("openvino", "fp32")


def test_energy_is_measured_or_power_times_the_latency_of_the_device() -> None:
    board = DeviceConfig("raspberry_pi_5", loaded_watts=Figure(8.0, "a wattmeter"))
    measured = int8(ms=20.0, device="Raspberry Pi 5")
    assert energy_on(measured, board) == 160.0  # 8 W x 20 ms
    assert energy_on(replace(measured, energy_mj=Energy(150.0)), board) == 150.0
    assert energy_on(measured, DeviceConfig("raspberry_pi_5")) is None
    assert energy_on(int8(ms=20.0), board) is None  # of this machine


def test_one_artifact_is_deployed_per_target() -> None:
    rows = [fp32(ms=1.0), int8(ms=0.5), row("export", "onnxruntime", "fp32", ms=0.01)]
    chosen = {target: each.precision for target, each in to_deploy(rows, "host", ()).items()}
    assert chosen == {"openvino": "int8", "onnxruntime": "fp32"}
    assert to_deploy(rows, "host", ["fp32"])["openvino"].precision == "fp32"
    assert to_deploy([row("load", None, "fp32")], "host", ()) == {}
