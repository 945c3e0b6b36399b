from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.cache import Cache
from compress.data import DataSet, supervised
from compress.data.dataset import without_labels
from compress.data.sample import Answer
from compress.errors import UserError
from compress.measurement import accuracy, answers
from compress.tasks import CLASSIFY, DETECT, Outputs, Predictions
from compress.tasks.classify import Classify
from compress.training.placement import CPU
from tests.fakes import BareModel, FakeModel, detections, small_classifier, small_model
from tests.stages.conftest import data


def unlabelled() -> DataSet:
    return without_labels(data())


def expected(model: FakeModel, dataset: DataSet) -> list[int]:
    split = dataset.validation
    planes = np.stack([split.image(index) for index in range(len(split))]).transpose(0, 3, 1, 2)
    return model.answer(planes.astype(np.float32) / 255).argmax(axis=1).tolist()


def targets(dataset: DataSet) -> list[Any]:
    return [dataset.validation.target(index) for index in range(len(dataset.validation))]


def test_the_models_own_predictions_replace_labels(tmp_path: Path) -> None:
    model, bare = small_model(), unlabelled()
    made = answers.answered(bare, model, 0.25, CPU, Cache(tmp_path))
    assert targets(made) == expected(model, bare)
    assert all(isinstance(sample.label, Answer) for sample in made.calibration.samples)
    assert made.train is not None and not made.train.labelled  # only distillation trains
    task = supervised(made.validation)
    predict = accuracy.predictor(model.deployed())
    result = accuracy.evaluate(predict, model.decode, made.validation, task, made.classes, batch=16)
    assert (result.metric, result.value) == ("agreement top1", 1.0)


def test_the_second_time_they_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, cache = small_model(), Cache(tmp_path)
    first = answers.answered(unlabelled(), model, 0.25, CPU, cache)
    monkeypatch.setattr(answers, "with_answers", None)
    again = answers.answered(unlabelled(), model, 0.25, CPU, cache)
    assert targets(again) == targets(first) and type(targets(again)[0]) is int
    with pytest.raises(TypeError, match="not callable"):
        answers.answered(unlabelled(), model, 0.5, CPU, cache)  # another confidence, other answers


class Detector(FakeModel):
    """Finds one box in every image, with the score 0.4."""

    def decode(self, outputs: Outputs) -> Predictions:
        return [detections((1, 0.4, 2, 2, 9, 9)) for _ in outputs]


def test_boxes_survive_the_cache(tmp_path: Path) -> None:
    model = Detector(small_classifier(), task=DETECT, imgsz=32)
    bare = replace(unlabelled(), task=DETECT)
    bare = replace(bare, **{name: replace(getattr(bare, name), task=DETECT) for name in ("calibration", "validation")})
    for _ in range(2):
        made = answers.answered(bare, model, 0.25, CPU, Cache(tmp_path))
        assert [target.tolist() for target in targets(made)] == [[[1, 2, 2, 9, 9]]] * len(made.validation)
        assert targets(made)[0].dtype == np.float32
    with pytest.raises(UserError, match="predicts nothing at this score in 4 validation images") as caught:
        answers.answered(bare, model, 0.5, CPU, Cache(tmp_path))
    assert (caught.value.key, caught.value.value) == ("data.confidence", 0.5)


def test_a_classifier_with_one_answer_is_suspicious(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = small_classifier()
    net[-1].weight.data.zero_()  # type: ignore[union-attr, operator]
    answers.answered(unlabelled(), FakeModel(net, imgsz=32), 0.25, CPU, Cache(tmp_path))
    assert "the same class for all 4 validation images" in caplog.text


@dataclass(frozen=True)
class Broken(Classify):
    def as_targets(self, predictions: Predictions, confidence: float) -> list[Any]:
        raise ValueError("no such\nthing")


def test_what_cannot_answer_is_refused() -> None:
    answers.check(small_model(), unlabelled())
    with pytest.raises(UserError, match="cannot be evaluated here"):
        answers.check(BareModel(small_classifier()), unlabelled())
    broken = replace(unlabelled().validation, task=Broken("broken"))
    with pytest.raises(UserError, match="as_targets of the task broken raised ValueError: no such thing"):
        answers.with_answers(broken, small_model(), 0.25)


def test_a_task_without_as_targets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Classify, "as_targets")
    with pytest.raises(UserError, match="the task has no method as_targets"):
        answers.check(small_model(), unlabelled())
    with pytest.raises(UserError, match="give it a method as_targets"):
        CLASSIFY.as_targets(np.zeros((1, 3)), 0.25)
