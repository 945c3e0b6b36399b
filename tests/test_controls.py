from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import compress
from compress.capabilities import Model
from compress.config import Family, ModelConfig
from compress.controls import input_within
from compress.data import DataSet, Sample, Split, resized
from compress.errors import UserError
from compress.measurement.rows import flops_at
from compress.models import build
from compress.tasks import DETECT

SHORT = ["recipe=digits", "stages=[train,prune,finetune]", "targets=[]", "data.validation_images=100", "cache=false"]
SHORT += ["train.images=1600", "finetune.images=320", "budget.max_accuracy_drop=null"]


@pytest.fixture
def model() -> Model:
    return build(ModelConfig(family=Family.module, target="tests.models.toy.Net", imgsz=64), tuple("abcdefghij"))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_the_largest_input_within_a_budget(model: Model, share: float) -> None:
    budget = round(share * flops_at(model, 64))
    size = input_within(model, budget)
    assert flops_at(model, size) <= budget
    assert size == 64 or flops_at(model, size + model.stride) > budget


def test_no_input_is_small_enough(model: Model) -> None:
    with pytest.raises(UserError, match="no input") as caught:
        input_within(model, 10)
    assert caught.value.key == "controls"


def test_the_same_data_at_another_input_size() -> None:
    boxes = np.array([[0, 0.5, 0.5, 0.5, 0.25]], np.float32)
    split = Split("train", [Sample(np.zeros((64, 64, 3), np.uint8), boxes, (64, 64))], 64, 3, DETECT)
    small = resized(DataSet(DETECT, ("it",), split, split, split, "x", {"test": split}), 32)
    for part in (small.train, small.calibration, small.validation, small.extra["test"]):
        assert part.image(0).shape == (32, 32, 3)
        assert part.target(0).tolist() == [[0, 8, 12, 24, 20]]
    assert split.image(0).shape == (64, 64, 3)


def test_a_run_with_controls_weighs_them_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = compress.run(compress.compose([*SHORT, "controls=true"]), tmp_path / "run")
    assert [row.stage for row in result.rows] == ["load", "train", "prune", "finetune"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "controls.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["random", "smaller_input"]
    tuned = result.rows[-1]
    random, smaller = rows
    assert random["imgsz"] == tuned.imgsz > smaller["imgsz"]
    budget = result.rows[1].flops / 2
    assert 0.7 * budget < random["flops"] <= tuned.flops <= budget and smaller["flops"] <= tuned.flops
    assert random["accuracy"]["images"] == smaller["accuracy"]["images"] == 100
    kinds = {"control", "pruning_does_not_win"}
    assert sum(remark.kind in kinds for remark in result.verdict.remarks) == 2
    assert (tmp_path / "run" / "pruning.json").read_text() != (
        tmp_path / "run/controls/random/pruning.json"
    ).read_text()


def test_controls_of_a_checkpoint_that_was_pruned_before_have_the_flops_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its budget of 50 % refers to the checkpoint, and the controls start from the network before both prunings."""
    monkeypatch.chdir(tmp_path)
    compress.run(compress.compose(SHORT), tmp_path / "first")
    again = ["recipe=digits", "model=checkpoint", "model.path=first/pruned", "stages=[prune,finetune]", "targets=[]"]
    again += ["finetune.images=320", "budget.max_accuracy_drop=null", "data.validation_images=100", "controls=true"]
    result = compress.run(compress.compose([*again, "cache=false", "force=true"]), tmp_path / "second")
    rows = [json.loads(line) for line in (tmp_path / "second" / "controls.jsonl").read_text().splitlines()]
    random, smaller = (row["flops"] for row in rows)
    limit = result.rows[-1].flops
    assert 0.6 * limit < random <= limit and smaller <= limit


def test_controls_need_something_to_compare_with() -> None:
    with pytest.raises(UserError, match="add prune and finetune") as caught:
        compress.run(compress.compose(["recipe=digits", "stages=[train,prune]", "targets=[]", "controls=true"]))
    assert caught.value.key == "controls"
