from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compress.tasks import CLASSIFY, DETECT
from compress.tasks.agreement import Agreement
from compress.tasks.metric import UserMetric
from tests.fakes import detections

SEEN = detections((0, 0.9, 0, 0, 10, 10), (1, 0.3, 20, 20, 30, 30), (1, 0.2, 20, 0, 30, 10), (0, 0.1, 0, 20, 9, 30))
CLASSES = ("cow", "pig")


def test_a_detector_agrees_with_itself_whatever_it_is_not_sure_of() -> None:
    targets = DETECT.as_targets([SEEN], 0.25)
    assert targets[0].tolist() == [[0, 0, 0, 10, 10], [1, 20, 20, 30, 30]] and targets[0].dtype == np.float32
    accuracy = Agreement(DETECT, 0.25).evaluate([SEEN], targets, CLASSES)
    assert accuracy.metric == "agreement mAP50-95"
    assert (accuracy.value, accuracy.map50) == (pytest.approx(1), pytest.approx(1))


def test_a_detection_counts_even_if_its_confidence_fell() -> None:
    lower = replace(SEEN, scores=SEEN.scores / 2)
    agreement = Agreement(DETECT, 0.25).evaluate([lower], DETECT.as_targets([SEEN], 0.25), CLASSES)
    assert agreement.value == pytest.approx(1)


def test_one_that_misses_an_object_agrees_less() -> None:
    half = detections((0, 0.9, 0, 0, 10, 10))
    agreement = Agreement(DETECT, 0.25).evaluate([half], DETECT.as_targets([SEEN], 0.25), CLASSES)
    assert agreement.value == pytest.approx(0.5)


def test_a_metric_that_counts_everything_gets_what_the_unpruned_model_would_say() -> None:
    def found(predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> float:
        return len(targets[0]) / len(predictions[0].scores)

    task = replace(DETECT, metric=UserMetric("found", found, "pkg.found"))
    agreement = Agreement(task, 0.25)
    accuracy = agreement.evaluate([SEEN], task.as_targets([SEEN], 0.25), CLASSES)
    assert agreement.name == accuracy.metric == "agreement found" and accuracy.value == 1


def test_the_class_that_scores_highest_replaces_a_label() -> None:
    scores = np.array([[0.1, 2.0], [3.0, -1.0]], np.float32)
    targets = CLASSIFY.as_targets(scores, 0.99)
    assert targets == [1, 0] and all(type(target) is int for target in targets)
    accuracy = Agreement(CLASSIFY, 0.99).evaluate(list(scores), targets, CLASSES)
    assert (accuracy.metric, accuracy.value, accuracy.chance) == ("agreement top1", 1.0, None)
