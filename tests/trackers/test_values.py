from __future__ import annotations

from dataclasses import replace

import pytest

from compress.budget import Check, Verdict
from compress.config import compose
from compress.ledger import Energy
from compress.trackers import values
from tests.budget.conftest import row


def test_a_row_becomes_numbers_named_by_target_and_precision() -> None:
    measured = replace(row("export", "onnxruntime", "int8", ms=1.5), energy_mj=Energy(2.0))
    assert values.of_row(measured) == {
        "onnxruntime.int8.flops": 1e6, "onnxruntime.int8.size_bytes": 1e6, "onnxruntime.int8.int8_mac_share": 0.9,
        "onnxruntime.int8.accuracy": 0.9, "onnxruntime.int8.latency_ms": 1.5, "onnxruntime.int8.energy_mj": 2.0,
    }  # fmt: skip


def test_what_was_not_measured_is_left_out() -> None:
    assert values.of_row(row(accuracy=None)).keys() == {
        "torch.fp32.flops", "torch.fp32.size_bytes", "torch.fp32.int8_mac_share",
    }  # fmt: skip
    assert values.of_row(row(accuracy=0.0))["torch.fp32.accuracy"] == 0


def test_parameters_have_full_keys_and_no_address_of_a_server() -> None:
    config = compose(["recipe=digits", "mlflow.tracking_uri=http://user:secret@host"])
    parameters = values.parameters(config)
    expected = {"recipe_name": "digits", "train.optimizer": "adamw", "seed": "0", "budget.latency_ms": "null"}
    assert expected.items() <= parameters.items()
    assert parameters["stages"] == '["train", "prune", "finetune", "quantize", "export"]'
    assert "secret" not in str(parameters)


@pytest.mark.parametrize(("value", "word"), [(1.0, "met"), (3.0, "missed"), (None, "undetermined")])
def test_the_verdict_is_one_word(value: float | None, word: str) -> None:
    check = Check("budget.size_mb", None, None, limit=2.0, value=value, unit="MB")
    assert values.verdict_word(Verdict((check,))) == word
