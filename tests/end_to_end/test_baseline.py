"""What a run does of a baseline that knows nothing, of data without training images, and without data."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from torch import Tensor, nn

from compress import compose, pipeline
from compress.errors import UserError
from compress.measurement import flops, latency
from tests.data.conftest import write_image

UNTRAINED = ["recipe=digits", "targets=[]", "threads=1", "cache=false", "data.validation_images=100"]


def test_a_run_stops_at_a_baseline_that_knows_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = compose([*UNTRAINED, "stages=[prune]"])
    with caplog.at_level(logging.WARNING):
        result = pipeline.run(config, tmp_path / "run")
    assert [each.stage for each in result.rows] == ["load"] and result.verdict.exit_status == 3
    assert result.verdict.met is None and result.verdict.remarks[0].kind == "baseline_knows_nothing"
    assert "force=true" in caplog.text
    assert "no better than guessing" in (tmp_path / "run/report.html").read_text().split("</section>")[0]


def test_force_goes_on_and_says_so(tmp_path: Path) -> None:
    result = pipeline.run(compose([*UNTRAINED, "stages=[prune]", "force=true"]), tmp_path / "run")
    assert [each.stage for each in result.rows] == ["load", "prune"]
    assert result.verdict.remarks[0].kind == "baseline_knows_nothing" and result.verdict.met is not True


def test_what_is_trained_first_is_measured_on_a_sample(tmp_path: Path) -> None:
    few = ["train.images=64", "data.validation_images=300", "targets=[onnxruntime]", "force=true"]
    result = pipeline.run(compose([*UNTRAINED, "stages=[train]", *few]), tmp_path / "run")
    images = [(each.stage, each.target, each.accuracy and each.accuracy.images) for each in result.rows]
    assert images == [("load", None, 200), ("train", None, 300), ("train", "onnxruntime", 300)]


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """A folder of class folders with no training images."""
    for seed in range(20):
        write_image(tmp_path / "data/val" / "abcdefghij"[seed % 10] / f"{seed}.png", 16, 16, seed)
    return tmp_path / "data"


def of_folder(folder: Path, *more: str) -> list[str]:
    given = ["recipe=digits", "data=image_folder", f"data.path={folder}", "model.channels=3", "model.args.channels=3"]
    return [*given, "budget.flops=null", "budget.max_accuracy_drop=null", "stages=[]", "targets=[]", *more]


def test_data_without_training_images_can_be_evaluated_on(evaluation: Path, tmp_path: Path) -> None:
    result = pipeline.run(compose(of_folder(evaluation)), tmp_path / "run")
    assert [each.accuracy and each.accuracy.images for each in result.rows] == [20] and result.verdict.exit_status == 0


@pytest.mark.parametrize("stage", ["train", "prune", "finetune", "quantize"])
def test_a_stage_that_needs_training_images_is_named(evaluation: Path, stage: str, tmp_path: Path) -> None:
    more = [f"stages=[{stage}]", "targets=[onnxruntime]", *(["budget.flops=50%"] if stage == "prune" else [])]
    with pytest.raises(UserError, match=f"the stage {stage} needs images of the train split"):
        pipeline.run(compose(of_folder(evaluation, *more)), tmp_path / "run")


def test_flops_only_needs_no_data(tmp_path: Path) -> None:
    given = ["recipe=digits", "data=none", "stages=[]", "targets=[]", "budget.flops=null"]
    config = compose([*given, "budget.max_accuracy_drop=null"])
    result = pipeline.run(config, tmp_path / "run")
    (row,) = result.rows
    assert row.flops > 0 and (row.params or 0) > 0 and row.accuracy is None and result.verdict.exit_status == 0
    assert compose(["recipe=flops", "model=yolo11n"]).data.name == "none"


def test_what_needs_data_is_refused_without(tmp_path: Path) -> None:
    for stages, targets, remedy in (("[export]", "[]", "needs images"), ("[]", "[onnxruntime]", "measured on images")):
        config = compose(["recipe=digits", "data=none", f"stages={stages}", f"targets={targets}", "budget.flops=null"])
        with pytest.raises(UserError, match=remedy):
            pipeline.run(config, tmp_path / "run")


def test_costs_are_counted_once_a_model_and_nothing_is_timed_without_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, count = [], flops.count

    def counting(net: nn.Module, example: Tensor) -> flops.Cost:
        counted.append(net)
        return count(net, example)

    monkeypatch.setattr(flops, "count", counting)
    monkeypatch.setattr(latency, "time_call", lambda *_, **__: pytest.fail("timed"))
    given = ["recipe=digits", "data=none", "stages=[]", "targets=[]", "budget.flops=null"]
    result = pipeline.run(compose([*given, "budget.max_accuracy_drop=null"]), tmp_path / "run")
    assert len(counted) == 1
    latency_ms = result.rows[0].latency_ms
    assert latency_ms is not None and latency_ms.obtained == "not_run"
