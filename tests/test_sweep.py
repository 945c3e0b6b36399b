"""Points of a sweep that goes on in the folder of one that was interrupted."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from compress.config import compose, dump
from compress.ledger import Accuracy, Ledger, Row
from compress.run_folder import hold, read
from compress.sweep import LATENCY, planned, point


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


def test_the_latency_predicted_for_the_device_is_an_objective(tmp_path: Path) -> None:
    composed, text = given()
    with hold(tmp_path / "a", text):
        ledger = Ledger(tmp_path / "a/ledger.jsonl", "a")
        ledger.append(Row("export", "openvino", "int8", 16, macs=5, accuracy=Accuracy("top1", 0.7)))
        remark = {"kind": "predicted_latency", "text": "…", "numbers": {"openvino/int8": 3.0, "openvino/fp32": 4.5}}
        verdict: dict[str, Any] = {"met": None, "checks": [], "remarks": [remark], "failures": {}}
        (tmp_path / "a/verdict.json").write_text(json.dumps(verdict))
    assert point(composed, tmp_path / "a", LATENCY) == (0.7, 3.0)
    verdict["remarks"] = []
    (tmp_path / "a/verdict.json").write_text(json.dumps(verdict))
    accuracy, latency = point(composed, tmp_path / "a", LATENCY)
    assert accuracy == 0.7 and math.isnan(latency)


def test_a_worker_names_its_machine(tmp_path: Path) -> None:
    composed, _ = given("targets=[abacus]")
    point(composed, tmp_path / "a", worker=True)
    failure = json.loads((tmp_path / "a/failed.json").read_text())
    assert failure["mistake"] is True and failure["error"].endswith(f"(on {socket.gethostname()})")


@pytest.mark.parametrize(
    ("subdir", "sweeper", "names"),
    [
        ("${hydra.job.override_dirname}", "BasicSweeper", ["prune.ratio=0.1,seed=1", "prune.ratio=0.2,seed=1"]),
        ("${hydra.job.num}", "BasicSweeper", ["0", "1"]),
        ("x${hydra.job.num}", "BasicSweeper", None),
        ("${hydra.job.override_dirname}", "OptunaSweeper", None),
    ],
)
def test_the_points_are_known_before_they_run(subdir: str, sweeper: str, names: list[str] | None) -> None:
    config = OmegaConf.create(
        {
            "hydra": {
                "sweep": {"subdir": subdir},
                "sweeper": {"_target_": f"x.{sweeper}", "params": {"seed": 1}},
                "overrides": {"task": ["recipe=digits", "prune.ratio=0.1,0.2"]},
                "job": {"config": {"override_dirname": {"exclude_keys": ["recipe"], "item_sep": ",", "kv_sep": "="}}},
            }
        }
    )
    assert planned(config) == names
