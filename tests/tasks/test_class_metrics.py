from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from compress.tasks import class_metrics
from compress.tasks.class_metrics import MOST_CLASSES, VALUES, Answers, ClassMetric, metrics

CLASSES = 8
NAMES = [str(index) for index in range(CLASSES)]


def case(images: int = 200, classes: int = CLASSES, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores and unevenly distributed labels; class 0 is never labelled, and class 1 never predicted."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.arange(1, classes), images, p=np.arange(1, classes) / np.arange(1, classes).sum())
    scores = rng.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels]
    scores[:, 1] = -9
    return scores, labels


def of_sklearn(name: str, labels: np.ndarray, scores: np.ndarray) -> float:
    predicted = scores.argmax(1)
    return {
        "top1": lambda: reference.accuracy_score(labels, predicted),
        "top5": lambda: reference.top_k_accuracy_score(labels, scores, k=5, labels=np.arange(scores.shape[1])),
        "balanced_accuracy": lambda: np.mean([(predicted == i)[labels == i].mean() for i in np.unique(labels)]),
        "macro_f1": lambda: reference.f1_score(labels, predicted, average="macro", zero_division=0),
    }[name]()


@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_of_scikit_learn(name: str) -> None:
    scores, labels = case()
    result = ClassMetric(name).evaluate(list(scores), labels.tolist(), NAMES)
    assert result.metric == name and result.value == pytest.approx(of_sklearn(name, labels, scores))
    assert result.details == pytest.approx({each: of_sklearn(each, labels, scores) for each in VALUES if each != name})
    assert result.ci95[0] < result.value < result.ci95[1]


@pytest.mark.parametrize("name", VALUES)
def test_a_resample_has_the_value_of_its_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = case(40)
    drawn = np.random.default_rng(1).integers(40, size=(9, 40))
    counts = np.stack([np.bincount(rows, minlength=40) for rows in drawn], axis=1)
    monkeypatch.setattr(class_metrics, "resamples", lambda images: counts)
    result = ClassMetric(name).evaluate(list(scores), labels.tolist(), NAMES)
    expected = [of_sklearn(name, labels[rows], scores[rows]) for rows in drawn]
    np.testing.assert_allclose(np.asarray(result.resampled), expected)


def test_balanced_accuracy_is_the_librarys() -> None:
    scores, labels = case(seed=3)
    scores[:, 0] = -9  # otherwise it warns of a predicted class without labels
    value = VALUES["balanced_accuracy"](Answers.of(scores, labels), np.ones((200, 1)))[0]
    assert value == pytest.approx(reference.balanced_accuracy_score(labels, scores.argmax(1)))


def test_of_equal_scores_the_lower_class_ranks_first() -> None:
    """As in argmax. Otherwise a network that answers the same for all classes would have a top-5 of 1."""
    answers = Answers.of(np.zeros((3, 7)), np.array([0, 4, 5]))
    assert answers.ranks.tolist() == [0, 4, 5] and answers.predicted.tolist() == [0, 0, 0]
    assert VALUES["top5"](answers, np.ones((3, 1)))[0] == pytest.approx(2 / 3)


def test_chance_is_that_of_the_frequencies() -> None:
    labels = [0] * 6 + [1] * 3 + [2]
    scores = list(np.eye(3)[labels])
    values = {name: ClassMetric(name).evaluate(scores, labels, ("a", "b", "c")).chance for name in metrics(3)}
    assert values == pytest.approx({"top1": 0.6, "balanced_accuracy": 1 / 3, "macro_f1": 2 * 6 / (6 + 10) / 3})


def test_top_5_needs_more_than_five_classes() -> None:
    assert "top5" not in metrics(5) and "top5" in metrics(6)
    assert "top5" not in ClassMetric("top1").evaluate([np.arange(5.0)], [0], NAMES[:5]).details


def test_the_confusion_matrix_counts_labels_by_predictions() -> None:
    scores, labels = case()
    result = ClassMetric("top1").evaluate(list(scores), labels.tolist(), NAMES)
    expected = reference.confusion_matrix(labels, scores.argmax(1), labels=range(CLASSES))
    np.testing.assert_array_equal(np.asarray(result.confusion), expected)
    many = [str(index) for index in range(MOST_CLASSES + 1)]
    assert ClassMetric("top1").evaluate([np.zeros(len(many))], [0], many).confusion is None
