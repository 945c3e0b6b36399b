"""What the stage asks for before it starts, and what it leaves alone for a device's sake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.config import DeviceConfig
from compress.errors import UserError
from compress.product import Precision, Product
from compress.stages import quantize
from compress.targets import onnxruntime
from tests.fakes import small_model
from tests.stages.conftest import config, context, data


@pytest.mark.parametrize(("asked", "there"), [(31, 100), (300, 31)])
def test_a_handful_of_images_is_refused_unless_forced(asked: int, there: int) -> None:
    with pytest.raises(UserError, match=r"data\.calibration_images=31.*at least 32.*quantize\.few_images=true"):
        quantize.check(Product(small_model()), config(asked), data(there))
    quantize.check(Product(small_model()), config(asked, few_images=True), data(there))
    quantize.check(Product(small_model()), config(32), data(32))


def test_no_images_at_all_cannot_be_forced() -> None:
    with pytest.raises(UserError, match=r"data\.calibration_images=0"):
        quantize.check(Product(small_model()), config(few_images=True), data(0))


def test_candidates_are_on_record(tmp_path: Path) -> None:
    model = Product(small_model())
    asked = config()
    asked.targets = ["onnxruntime"]
    product = quantize.run(model, context(asked, data(40), tmp_path))
    assert [graph.precision for graph in product.graphs] == [Precision.fp32, Precision.int8]
    content = json.loads((tmp_path / "quantization.json").read_text())
    record, sensitivity = content["candidates"], content["sensitivity"]
    assert sensitivity == {}  # a scheme was within the limit
    assert [row["chosen"] for row in record].count(True) == 1 and len(record) >= 2  # more on CPUs that saturate
    fallbacks = {scheme.description for scheme in onnxruntime.SCHEMES if scheme.fallback}
    assert fallbacks and not fallbacks & {row["scheme"] for row in record}  # they were not needed
    assert all(row["latency_ms"] > 0 and row["size_bytes"] > 0 for row in record)
    [int8] = [graph for graph in product.graphs if graph.precision is Precision.int8]
    assert [row["scheme"] for row in record if row["chosen"]] == [int8.scheme]
    assert int8.calibration["images"] == 40 and int8.calibration["split"] == "calibration"


def test_without_a_search_the_first_scheme_is_taken(tmp_path: Path) -> None:
    model = Product(small_model())
    asked = config(search=False)
    asked.targets = ["onnxruntime"]
    [_, int8] = quantize.run(model, context(asked, data(40), tmp_path)).graphs
    assert int8.scheme.endswith("all operators")
    assert json.loads((tmp_path / "quantization.json").read_text())["candidates"] == []


def test_a_chip_without_int8_gets_none(tmp_path: Path) -> None:
    model = Product(small_model())
    asked = config()
    asked.targets, asked.device = ["onnxruntime"], DeviceConfig("board", precisions=["fp16", "fp32"])
    [fp32] = quantize.run(model, context(asked, data(40), tmp_path)).graphs
    assert fp32.precision is Precision.fp32
