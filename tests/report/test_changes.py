from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compress.report.changes import (
    baseline_row,
    change_between,
    change_from_baseline,
    change_from_previous,
    final_rows,
    previous_row,
)
from tests.report.ledgers import pick, row, rows, score, timing, typed


def test_int8_follows_fp32_of_the_same_runtime() -> None:
    ledger = typed(*rows())
    int8 = pick(ledger, "quantize", "onnxruntime", "int8")
    assert previous_row(ledger, int8) is pick(ledger, "finetune", "onnxruntime")
    change = change_from_previous(ledger, int8)
    assert change.latency == pytest.approx(2.96 / 3.87)
    assert change.precisions == ("f32", "int8")
    assert change.accuracy == pytest.approx(0.4742 - 0.4790)
    assert change.flops == 1


def test_export_follows_its_own_precision() -> None:
    ledger = typed(*rows())
    assert previous_row(ledger, pick(ledger, "export", "openvino")) is pick(ledger, "finetune", "openvino")
    assert previous_row(ledger, pick(ledger, "export", "openvino", "int8")) is pick(
        ledger, "quantize", "openvino", "int8"
    )
    assert previous_row(ledger, pick(ledger, "export", "tensorrt", "fp16")) is pick(ledger, "finetune", "tensorrt")


def test_baseline_is_torch_for_accuracy_and_the_same_runtime_for_latency() -> None:
    ledger = typed(*rows())
    change = change_from_baseline(ledger, pick(ledger, "export", "openvino", "int8"))
    assert change.accuracy == pytest.approx(0.4755 - 0.4873)
    assert change.latency == pytest.approx(3.45 / 4.18)
    assert change.flops == pytest.approx(0.4984, abs=1e-4)


@pytest.mark.parametrize("other", [{"device": "jetson"}, {"threads": 4}, {"batch": 8}, {"obtained": "predicted"}])
def test_latencies_that_do_not_compare_have_no_ratio(other: dict[str, Any]) -> None:
    int8 = row("quantize", "openvino", "int8", latency=(2.0, "int8"))
    ledger = typed(row("load"), row("load", "openvino", latency=(4.0, "bf16")), int8)
    assert change_from_baseline(ledger, ledger[2]).latency == 0.5
    [ledger[2]] = typed(int8 | {"latency_ms": timing("openvino", 2.0, "int8") | other})
    assert change_from_baseline(ledger, ledger[2]).latency is None
    assert change_from_previous(ledger, ledger[2]).latency is None


def test_accuracies_on_other_images_have_no_difference() -> None:
    ledger = typed(row("load", accuracy=0.5), row("prune", accuracy=0.4))
    assert change_from_baseline(ledger, ledger[1]).accuracy == pytest.approx(-0.1)
    [ledger[1]] = typed(row("prune") | {"accuracy": score(0.4, images=3000)})
    assert change_from_baseline(ledger, ledger[1]).accuracy is None


def test_final_rows_are_of_the_last_stage_of_each_target() -> None:
    final = [(r.stage, r.target, r.precision) for r in final_rows(typed(*rows()))]
    assert ("finetune", None, "fp32") in final and ("export", "tensorrt", "fp16") in final
    assert len(final) == 7


def test_a_model_that_the_recipe_trains_is_its_own_baseline() -> None:
    ledger = typed(row("load", accuracy=0.1), row("train", accuracy=0.5), row("prune", accuracy=0.4))
    assert baseline_row(ledger) is ledger[1]
    assert change_from_baseline(ledger, ledger[2]).accuracy == pytest.approx(-0.1)
    assert change_from_baseline(ledger, ledger[0]).accuracy is None, "what was loaded is not compared with it"
    assert baseline_row(typed(row("load", "openvino"))) is None


def test_the_first_row_of_a_target_follows_the_torch_row() -> None:
    ledger = typed(row("load"), row("prune"), row("finetune", "ncnn"), row("export"))
    assert previous_row(ledger, ledger[2]) is ledger[1]
    assert previous_row(ledger, ledger[0]) is None


def test_rows_of_two_runs_are_compared_directly() -> None:
    [first] = typed(row("export", "openvino", accuracy=0.5, latency=(4.0, "f32")))
    [second] = typed(row("export", "openvino", accuracy=0.4, latency=(1.0, "int8"), macs=first.macs // 2))
    change = change_between(first, second)
    assert (change.flops, change.latency, change.precisions) == (0.5, 0.25, ("f32", "int8"))
    assert change.accuracy == pytest.approx(-0.1)
    assert change_between(first, replace(second, imgsz=640)).latency is None
