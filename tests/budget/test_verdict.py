from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from compress.budget import judge
from compress.config import BudgetConfig, DeviceConfig
from compress.ledger import Accuracy, Row
from tests.budget.conftest import FULL, check, fp32, int8, ledger, row, verdict


def test_all_met() -> None:
    result = verdict(
        ledger(fp32(), int8(accuracy=0.895)), flops="50%", max_accuracy_drop=0.02, latency_ms=1, size_mb=0.5
    )
    assert [(c.name, c.target, c.precision, c.limit, c.unit) for c in result.checks] == [
        ("budget.flops", None, None, 500_000, "FLOPs"),
        ("budget.max_accuracy_drop", "openvino", "fp32", 0.02, "absolute"),
        ("budget.max_accuracy_drop", "openvino", "int8", 0.02, "absolute"),
        ("quantize.max_accuracy_drop", "openvino", "int8", 0.01, "absolute"),
        ("budget.latency_ms", "openvino", "int8", 1, "ms"),
        ("budget.size_mb", "openvino", "int8", 0.5, "MB"),
    ]
    assert [c.value for c in result.checks] == pytest.approx([500_000, 0, 0.005, 0.005, 0.8, 0.4])
    assert all(c.met is True for c in result.checks)
    assert result.met is True
    assert result.exit_status == 0


def test_nothing_to_judge_is_met() -> None:
    result = verdict([row("load"), row("load", "openvino", ms=1.0)])
    assert (result.checks, result.remarks) == ((), ())
    assert (result.met, result.exit_status) == (True, 0)


@pytest.mark.parametrize(
    ("name", "budget", "exported"),
    [
        ("budget.flops", {"flops": "49%"}, int8()),
        ("budget.flops", {"flops": "499.998K"}, int8()),
        ("budget.latency_ms", {"latency_ms": 0.79}, int8()),
        ("budget.size_mb", {"size_mb": 0.39}, int8()),
        ("quantize.max_accuracy_drop", {}, int8(accuracy=0.88)),
    ],
)
def test_missed(name: str, budget: dict[str, Any], exported: Row) -> None:
    result = verdict(ledger(fp32(), exported), **budget)
    assert check(result, name).met is False
    assert (result.met, result.exit_status) == (False, 3)


def test_every_artifact_is_held_to_the_accuracy_drop() -> None:
    result = verdict(ledger(fp32(), int8(accuracy=0.895), accuracy=0.9), max_accuracy_drop=0.004)
    drops = {c.precision: c.met for c in result.checks if c.name == "budget.max_accuracy_drop"}
    assert drops == {"fp32": True, "int8": False}
    assert result.met is False


@pytest.mark.parametrize(
    ("name", "budget", "exported"),
    [
        ("budget.latency_ms", {"latency_ms": 9}, int8(ms=None, obtained="not_run", device=None)),
        ("budget.latency_ms", {"latency_ms": 9}, int8(obtained="predicted")),
        ("budget.size_mb", {"size_mb": 9}, int8(size=None)),
        ("quantize.max_accuracy_drop", {}, int8(accuracy=None)),
        ("budget.energy_mj", {"energy_mj": 1}, int8()),
        ("budget.sram_kb", {"sram_kb": 1}, int8()),
        ("budget.flash_kb", {"flash_kb": 1}, int8(size=None)),
    ],
)
def test_what_was_not_measured_is_undetermined(name: str, budget: dict[str, Any], exported: Row) -> None:
    result = verdict(ledger(exported), **budget)
    assert check(result, name).value is None
    assert check(result, name).met is None
    assert (result.met, result.exit_status) == (None, 3)


def test_a_miss_outweighs_what_is_undetermined() -> None:
    result = verdict(ledger(fp32(), int8()), flops="10%", energy_mj=1.0)
    assert [c.met for c in result.checks if c.name.startswith("budget")] == [False, None]
    assert result.met is False


def test_a_failed_target_is_not_met() -> None:
    met = verdict(ledger(fp32(), int8()), flops="50%")
    failed = verdict(ledger(fp32(), int8()), flops="50%", failures={"tensorrt": "refused the graph"})
    assert met.met is True
    assert all(c.met for c in failed.checks)
    assert (failed.met, failed.exit_status) == (False, 3)
    assert failed.as_dict()["failures"] == {"tensorrt": "refused the graph"}


def test_no_artifacts_judges_the_last_torch_model() -> None:
    rows = [row("load"), row("prune", flops=600_000, accuracy=0.7), row("finetune", flops=600_000, accuracy=0.85)]
    result = verdict(rows, flops="60%", max_accuracy_drop=0.04)
    assert (check(result, "budget.flops").value, check(result, "budget.flops").met) == (600_000, True)
    assert check(result, "budget.max_accuracy_drop").value == pytest.approx(0.05)
    assert result.met is False


def test_quantized_graphs_are_judged_where_nothing_was_exported() -> None:
    quantized = row("quantize", "openvino", "int8", flops=FULL // 2, accuracy=0.7, ms=1.0)
    assert check(verdict(ledger(quantized)), "quantize.max_accuracy_drop").value == pytest.approx(0.2)


def test_flops_are_those_of_the_worst_artifact() -> None:
    result = verdict([*ledger(), row("export", "openvino", flops=700_000, ms=1.0)], flops="60%")
    assert check(result, "budget.flops").value == 700_000
    assert result.met is False


def test_the_baseline_is_what_the_recipe_trained() -> None:
    rows = [row("load", accuracy=0.1), row("train", accuracy=0.9), *ledger(int8(accuracy=0.8))[2:]]
    assert check(verdict(rows, max_accuracy_drop=0.05), "budget.max_accuracy_drop").value == pytest.approx(0.1)
    untrained = [rows[0], *rows[2:]]
    assert check(verdict(untrained, max_accuracy_drop=0.05), "budget.max_accuracy_drop").value == pytest.approx(-0.7)


def test_a_share_is_of_the_loaded_model() -> None:
    assert check(verdict(ledger(fp32(), int8()), flops="70%"), "budget.flops").limit == 700_000


def test_int8_is_compared_with_the_same_network_in_the_same_runtime() -> None:
    """Neither with torch, nor with the unpruned network, nor with another runtime."""
    other = row("export", "onnxruntime", "fp32", flops=FULL // 2, accuracy=0.1, ms=1.0)
    result = verdict(ledger(fp32(accuracy=0.85), int8(accuracy=0.845), other, accuracy=0.95))
    assert check(result, "quantize.max_accuracy_drop").value == pytest.approx(0.005)


def test_latency_counts_on_the_named_device_only() -> None:
    rows = ledger(fp32(), int8())
    assert check(verdict(rows, latency_ms=1.0), "budget.latency_ms").met is True
    elsewhere = verdict(rows, latency_ms=1.0, device="raspberry_pi_5")
    assert check(elsewhere, "budget.latency_ms").value is None
    assert elsewhere.exit_status == 3
    there = [*rows, int8(device="raspberry_pi_5", ms=30.0)]
    assert check(verdict(there, latency_ms=40.0, device="raspberry_pi_5"), "budget.latency_ms").value == 30.0


def test_a_frame_rate_is_judged_by_what_it_came_to() -> None:
    derived: dict[str, Any] = {"fps": 100.0, "flops": "50%", "latency_ms": 10.0}
    assert [c.name for c in verdict(ledger(fp32()), **derived).checks if c.unit in ("FLOPs", "ms", "fps")] == [
        "budget.flops",
        "budget.latency_ms",
    ]
    elsewhere = verdict(ledger(fp32(obtained="predicted", device="board")), device="board", **derived)
    assert check(elsewhere, "budget.latency_ms").met is None
    assert elsewhere.exit_status == 3


def test_verdict_json() -> None:
    result = verdict(ledger(fp32(), int8(ms=1.5)), flops="50%", energy_mj=2.0)
    written = json.loads(json.dumps(result.as_dict()))
    assert written.keys() == {"schema_version", "met", "checks", "remarks", "failures"}
    assert written["met"] is None
    assert {"name", "target", "limit", "value", "unit", "met"} <= written["checks"][0].keys()
    assert [c["met"] for c in written["checks"]] == [True, True, None]
    assert all(remark.keys() == {"kind", "text", "numbers", "lasting"} for remark in written["remarks"])


def test_size_and_latency_are_those_of_the_recommended_artifact() -> None:
    result = verdict(ledger(fp32(ms=1.0, size=900_000), int8(ms=1.5)), latency_ms=1.2, size_mb=0.5)
    assert [(c.precision, c.value) for c in result.checks if c.unit in ("ms", "MB")] == [("fp32", 1.0), ("fp32", 0.9)]


def test_a_baseline_with_nothing_to_lose_proves_nothing() -> None:
    rows = [replace(each, accuracy=Accuracy("top1", 0.0)) for each in ledger(fp32())]
    result = verdict(rows, max_accuracy_drop=0.02)
    assert result.met is None and result.exit_status == 3
    assert result.remarks[0].kind == "baseline_is_too_weak"
    assert verdict(ledger(fp32()), max_accuracy_drop=0.02).met


def test_rows_brought_from_the_device_decide_there() -> None:
    """The declared order is a guess; times taken on the device are none. They are not held against accuracy again."""
    rows = ledger(fp32(ms=1.0), int8(ms=3.0))
    brought = [
        replace(each, accuracy=None)
        for each in (fp32(ms=8.0, device="Raspberry Pi 5"), int8(ms=9.0, device="Raspberry Pi 5"))
    ]
    board = DeviceConfig("raspberry_pi_5", precisions=["int8", "fp32"])
    budget = BudgetConfig(flops="50%", latency_ms=8.5, max_accuracy_drop=0.01)
    before, after = judge(budget, 0.01, rows, {}, board), judge(budget, 0.01, [*rows, *brought], {}, board)
    assert check(before, "budget.latency_ms").met is None and before.met is None
    assert check(after, "budget.latency_ms").value == 8.0 and after.met
    [remark] = [each for each in after.remarks if each.kind == "recommended_for_device"]
    assert remark.numbers == {"openvino/fp32": 8.0} and "measured on the device" in remark.text
    others = [[each for each in result.remarks if each.kind != remark.kind] for result in (before, after)]
    assert others[0] == others[1], "what is said of this machine does not mix with times of the device"
    slow = judge(budget, 0.01, [*rows, replace(brought[0], latency_ms=brought[1].latency_ms)], {}, board)
    assert check(slow, "budget.latency_ms").value is None, "INT8, which may be faster, was not timed there yet"
    elsewhere = judge(budget, 0.01, [*rows, *brought], {}, DeviceConfig("jetson_nano", precisions=["int8"]))
    assert check(elsewhere, "budget.latency_ms").value is None


@pytest.mark.parametrize(("limit", "met"), [(391, True), (390, False)])
def test_a_microcontrollers_memory_is_judged(limit: float, met: bool) -> None:
    fits = replace(int8(size=400_000), arena_bytes=400_000)  # 390.6 KB
    for name in ("sram_kb", "flash_kb"):
        budget: dict[str, Any] = {name: limit}
        result = check(verdict(ledger(fits), **budget), f"budget.{name}")
        assert (result.target, result.precision, result.met) == ("openvino", "int8", met)


@pytest.mark.parametrize("name", ["latency_ms", "size_mb", "sram_kb", "flash_kb"])
def test_without_an_artifact_its_costs_are_undetermined(name: str) -> None:
    budget: dict[str, Any] = {name: 10**6}
    result = verdict(ledger(), **budget)
    assert check(result, f"budget.{name}").met is None and result.met is None


def test_without_labels_the_drop_is_one_of_agreement() -> None:
    compared = [
        replace(each, accuracy=each.accuracy and replace(each.accuracy, metric="agreement top1"))
        for each in ledger(fp32(accuracy=0.8), int8(accuracy=0.8))
    ]
    budget = BudgetConfig(max_accuracy_drop=0.05)
    judged = judge(budget, 0.01, compared, {}, DeviceConfig())
    assert {each.unit for each in judged.checks} == {"absolute, agreement"} and judged.met is False
    assert judged.remarks[0].kind == "agreement_is_not_accuracy"
    assert "agreement_is_not_accuracy" not in [each.kind for each in verdict(ledger(fp32())).remarks]
