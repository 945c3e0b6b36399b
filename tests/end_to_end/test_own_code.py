"""Data sets, metrics and tasks from a user's own package, named by import path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import compress
from compress.errors import UserError
from compress.pipeline import Result

CNN = ["recipe=custom", "model=module", "model.target=compress.examples.small_cnn.SmallCNN", "model.imgsz=16"]
CNN += [
    "model.channels=1",
    "+model.args.classes=2",
    "+model.args.channels=1",
    "data=module",
    "threads=1",
    "budget.flops=null",
]
MEASURED = [*CNN, "stages=[]", "targets=[]"]


def run(*overrides: str) -> Result:
    return compress.run(compress.compose(list(overrides)), Path("run"))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_task_of_ones_own_goes_through_the_whole_pipeline() -> None:
    """Semantic segmentation: one file of the user's, nothing changed in the package."""
    result = run(
        "recipe=custom", "model=module", "model.target=tests.own_code.Segmenter", "model.imgsz=32",
        "task.target=tests.own_code.SEMANTIC", "data=module", "data.target=tests.own_code.Shapes",
        "data.calibration_images=32", "stages=[train,prune,finetune,quantize,export]", "targets=[onnxruntime]",
        "budget.flops=60%", "budget.max_accuracy_drop=0.1", "prune.round_to=8", "train.images=960", "train.batch=16",
        "train.learning_rate=0.01", "finetune.images=480", "finetune.batch=16", "threads=1",
    )  # fmt: skip
    rows = {(row.stage, row.target, row.precision): row for row in result.rows}
    accuracy = rows["export", "onnxruntime", "int8"].accuracy
    assert accuracy is not None and accuracy.metric == "mIoU" and accuracy.value > 0.7
    assert result.verdict.met
    names = {check.name for check in result.verdict.checks}
    assert {"contract.same_as_torch", "contract.confidence_shift", "budget.max_accuracy_drop"} <= names
    manifest = json.loads(Path("run/artifacts/onnxruntime/manifest.json").read_text())
    assert manifest["output"] == "semantic" and "labelled_images" not in manifest["models"]["int8"]
    with pytest.raises(UserError, match="outside this package"):
        compress.load("run/pruned")
    assert compress.load("run/pruned", trust=True).task.name == "semantic"


def test_a_data_set_and_a_metric_of_ones_own() -> None:
    result = run(*MEASURED, "data.target=tests.own_code.Numbers", "metric.target=tests.own_code.balanced")
    [row] = result.rows
    assert row.accuracy is not None and row.accuracy.metric == "balanced" and row.accuracy.images == 40
    low, high = row.accuracy.ci95 or (1.0, 0.0)
    assert 0 <= low <= row.accuracy.value <= high <= 1


def test_arguments_reach_data_set_and_metric() -> None:
    words = ["data.target=tests.own_code.Numbers", "metric.target=tests.own_code.Floor", "+metric.args.floor=0.99"]
    [row] = run(*MEASURED, *words).rows
    assert row.accuracy is not None
    assert (row.accuracy.metric, row.accuracy.value) == ("accuracy above a floor", 0.99)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("tests.own_code.Nothing", "cannot be imported"), ("nowhere.Data", "cannot be imported"),
        ("os.getcwd", "part of Python itself"), ("tests.own_code.Raises", "OSError: the disk is not mounted"),
        ("tests.own_code.RaisesLater", r"train\(\) raised OSError"), ("tests.own_code.NoClasses", "different names"),
        ("tests.own_code.NoValidation", r"validation\(\) returned no samples"),
        ("tests.own_code.WrongLabel", r"train\(\)\[0\]: the label is 7; expected a class index from 0 to 1"),
        ("tests.own_code.WrongPixels", "its image is float64"), ("tests.own_code.NotSamples", "is a tuple"),
        ("tests.own_code.OddTask", "task is 'depth'"), ("tests.own_code.Empty", "different names"),
    ],
)  # fmt: skip
def test_a_data_set_that_is_none_is_one_error(target: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        run(*MEASURED, f"data.target={target}")
    assert (caught.value.key, caught.value.value) == ("data.target", target)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("tests.own_code.nothing", "cannot be imported"), ("tests.own_code.above_one", "returned 17"),
        ("tests.own_code.raising", "KeyError"), ("tests.own_code.text", "TypeError"),
        ("tests.own_code.NOT_A_TASK", "is a int"),
    ],
)  # fmt: skip
def test_a_metric_that_is_none_is_one_error(target: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        run(*MEASURED, "data.target=tests.own_code.Numbers", f"metric.target={target}")
    assert (caught.value.key, caught.value.value) == ("metric.target", target)


def test_a_metric_of_the_task_is_judged_by_its_name() -> None:
    [row] = run(*MEASURED, "data.target=tests.own_code.Numbers", "metric=macro_f1").rows
    assert row.accuracy is not None and row.accuracy.metric == "macro_f1"
    assert set(row.accuracy.details) == {"top1", "balanced_accuracy"} and len(row.accuracy.confusion) == 2


@pytest.mark.parametrize("name", ["mAP50", "top5"])  # of detectors; always 1 with two classes
def test_a_metric_that_does_not_fit_names_those_that_do(name: str) -> None:
    with pytest.raises(UserError, match="have top1, balanced_accuracy, macro_f1; set one") as caught:
        run(*MEASURED, "data.target=tests.own_code.Numbers", f"metric={name}")
    assert (caught.value.key, caught.value.value) == ("metric.name", name)


@pytest.mark.parametrize("target", ["tests.own_code.NOT_A_TASK", "tests.own_code.Numbers", "nowhere.TASK"])
def test_a_task_that_is_none_is_one_error(target: str) -> None:
    with pytest.raises(UserError) as caught:
        run(*MEASURED, "data.target=tests.own_code.Numbers", f"task.target={target}")
    assert (caught.value.key, caught.value.value) == ("task.target", target)


def test_a_task_needs_data_of_its_own() -> None:
    words = [*CNN[:4], "data=digits", "threads=1", "budget.flops=null", "stages=[]", "targets=[]"]
    with pytest.raises(UserError, match="data=digits has a task of its own"):
        run(*words, "task.target=tests.own_code.SEMANTIC", "model.target=tests.own_code.Segmenter")


def test_a_model_for_another_task_is_refused() -> None:
    words = ["recipe=profile", "model=yolo11n", "model.imgsz=64", "data=module", "data.target=tests.own_code.Shapes"]
    pytest.importorskip("ultralytics")
    with pytest.raises(UserError, match="the data is for semantic, the model for detect"):
        run(*words)
