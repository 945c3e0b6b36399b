"""Results of the microbenchmark of a bench kit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.devices import microbenchmark
from compress.devices.prediction import MICROBENCHMARK
from compress.errors import UserError

BLOCK = "3x8x8 conv:8,3 relu mark dw:3 add mean"


def write(folder: Path, **changes: Any) -> Path:
    content = {
        "schema_version": 1, "target": "onnxruntime", "precision": "fp32", "device": "mine", "threads": 4,
        "runtime": "onnxruntime 1.0", "blocks": [{"block": BLOCK, "ms": 0.5}] * microbenchmark.LEAST,
    }  # fmt: skip
    path = folder / "microbenchmark.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_the_operators_of_its_blocks_are_counted(tmp_path: Path) -> None:
    read = microbenchmark.read(write(tmp_path))
    assert (read.device, read.runtime, read.precision, read.threads) == ("mine", "onnxruntime", "fp32", 4)
    assert {(each.name, each.ms) for each in read.networks} == {(MICROBENCHMARK, 0.5)}
    operators = read.timings()[0].operators
    assert [each.kind for each in operators] == ["Conv", "DepthwiseConv", "Add", "GlobalAveragePool"]
    assert (operators[0].macs, operators[0].activation) == (8 * 64 * 27, "Relu")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"precision": "fp8"}, "precision"),
        ({"target": "a\nb"}, "target"),
        ({"threads": 0}, "threads"),
        ({"blocks": []}, "blocks"),
        ({"blocks": [{"block": BLOCK, "ms": 0}] * 20}, "ms"),
        ({"blocks": [{"block": "3x8x8 shell:1", "ms": 1}] * 20}, "not a layer"),
        ({"blocks": [{"block": "3x9999x9999 conv:9999,1", "ms": 1}] * 20}, "too large"),
        ({"blocks": [{"block": 3, "ms": 1}] * 20}, "expected a string"),
    ],
)
def test_impossible_values_are_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(UserError, match=reason) as error:
        microbenchmark.read(path)
    assert str(path) in str(error.value)
