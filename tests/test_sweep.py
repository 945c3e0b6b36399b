"""Points of a sweep that goes on in the folder of one that was interrupted."""

from __future__ import annotations

import json
import math
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from compress.config import compose, dump
from compress.ledger import Accuracy, Ledger, Row
from compress.run_folder import hold, read
from compress.sweep import point


def given(*overrides: str) -> tuple[DictConfig, str]:
    config = compose(["recipe=digits", *overrides])
    composed = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(config)))
    assert isinstance(composed, DictConfig)
    return composed, dump(config)


def test_a_finished_point_is_taken_as_it_is(tmp_path: Path) -> None:
    composed, text = given()
    with hold(tmp_path / "a", text):
        ledger = Ledger(tmp_path / "a/ledger.jsonl", "a")
        ledger.append(Row("load", None, "fp32", 16, macs=10, accuracy=Accuracy("top1", 0.9)))
        ledger.append(Row("export", "openvino", "int8", 16, macs=5, accuracy=Accuracy("top1", 0.7)))
        ledger.append(Row("export", "onnxruntime", "int8", 16, macs=5, accuracy=Accuracy("top1", 0.8)))
    assert point(composed, tmp_path / "a") == (0.8, 10.0)
    assert not (tmp_path / "a/failed.json").exists()


def test_a_point_that_cannot_be_made_says_why_until_it_is_tried_again(tmp_path: Path) -> None:
    composed, _ = given("targets=[abacus]")
    assert all(math.isnan(value) for value in point(composed, tmp_path / "a"))
    assert "abacus" in json.loads((tmp_path / "a/failed.json").read_text())["error"]
    with hold(tmp_path / "a", "config"):
        assert not (tmp_path / "a/failed.json").exists()
    assert read(tmp_path / "a")["status"] == "finished"
