"""Metrics of classifiers, from the scores of all classes. Their values are those of scikit-learn's functions, which are
too slow for bootstrap resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compress.tasks.metric import Accuracy, Metric, fingerprint, interval, resamples

TOP = 5  # classes that count in top-5 accuracy
MOST_CLASSES = 50  # of a confusion matrix: a larger one could not be read


@dataclass(frozen=True)
class Answers:
    """Labels and predicted classes of n images. Of equal scores, that of the lower class index ranks first."""

    labels: np.ndarray  # (n,) int64
    predicted: np.ndarray  # (n,) int64, class of the highest score
    ranks: np.ndarray  # (n,) int64, number of classes that rank before the label
    classes: int

    @classmethod
    def of(cls, scores: np.ndarray, labels: np.ndarray) -> Answers:
        """From scores (n, classes) and labels (n,)."""
        own = np.take_along_axis(scores, labels[:, None], axis=1)
        before = np.arange(scores.shape[1]) < labels[:, None]
        ranks = ((scores > own) | ((scores == own) & before)).sum(axis=1)
        return cls(labels, np.argmax(scores, axis=1), ranks, scores.shape[1])

    def counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns true positives, labels and predictions of each class, each (classes, b), for b resamples. `weights`
        (n, b) is the number of occurrences of each image in each resample."""
        correct = weights * (self.ranks == 0)[:, None]
        groups = (self.labels, correct), (self.labels, weights), (self.predicted, weights)
        true, labelled, predicted = (_sum_by_class(classes, values, self.classes) for classes, values in groups)
        return true, labelled, predicted

    def confusion(self) -> np.ndarray:
        """Returns (classes, classes), the number of images by label (row) and predicted class (column)."""
        pairs = self.labels * self.classes + self.predicted
        return np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)


def _sum_by_class(classes: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Returns (count, b): the sums of the rows of `values` (n, b) that belong to each class."""
    order = np.argsort(classes, kind="stable")
    present, starts = np.unique(classes[order], return_index=True)
    sums = np.zeros((count, values.shape[1]))
    sums[present] = np.add.reduceat(values[order], starts, axis=0)
    return sums


def top1(answers: Answers, weights: np.ndarray) -> np.ndarray:
    """Fraction of images whose labelled class ranks first."""
    return (answers.ranks == 0) @ weights / len(answers.labels)


def top5(answers: Answers, weights: np.ndarray) -> np.ndarray:
    """Fraction of images whose labelled class is among the five that rank first."""
    return (answers.ranks < TOP) @ weights / len(answers.labels)


def balanced_accuracy(answers: Answers, weights: np.ndarray) -> np.ndarray:
    """Fraction of the images of a class whose class ranks first, mean over the classes that have images."""
    true, labelled, _ = answers.counts(weights)
    return _mean(true, labelled)


def macro_f1(answers: Answers, weights: np.ndarray) -> np.ndarray:
    """F1 score, mean over the classes that are labelled or predicted."""
    true, labelled, predicted = answers.counts(weights)
    return _mean(2 * true, labelled + predicted)


def _mean(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Mean over the classes of part / whole, both (classes, b), without the classes for which `whole` is 0."""
    ratio = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return ratio.sum(axis=0) / (whole > 0).sum(axis=0)


VALUES = {each.__name__: each for each in (top1, top5, balanced_accuracy, macro_f1)}


@dataclass(frozen=True)
class ClassMetric:
    """One of `VALUES`, with the others as details."""

    name: str

    def evaluate(self, predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> Accuracy:
        """Evaluates score vectors (classes,) against class indices, one per image. `chance` is the value of always
        ranking the classes by their frequency."""
        labels = np.array(targets, dtype=np.int64)
        scores = np.stack(predictions)
        answers, once = Answers.of(scores, labels), np.ones((len(labels), 1), np.int64)
        frequencies = np.bincount(labels, minlength=scores.shape[1])
        guesses = Answers.of(np.broadcast_to(frequencies, scores.shape), labels)
        parts = np.array_split(resamples(len(labels)), 8, axis=1)  # bounds memory
        resampled = np.concatenate([VALUES[self.name](answers, part) for part in parts])
        correct = answers.ranks == 0
        return Accuracy(
            metric=self.name,
            value=float(VALUES[self.name](answers, once)[0]),
            images=len(labels),
            chance=float(VALUES[self.name](guesses, once)[0]),
            ci95=interval(resampled),
            per_class={n: float(correct[labels == i].mean()) for i, n in enumerate(classes) if (labels == i).any()},
            details={n: float(VALUES[n](answers, once)[0]) for n in metrics(len(classes)) if n != self.name},
            confusion=answers.confusion() if len(classes) <= MOST_CLASSES else None,
            resampled=resampled,
            fingerprint=fingerprint([labels]),
        )


def metrics(classes: int) -> Mapping[str, Metric]:
    """The metrics for so many classes. With at most five, top-5 accuracy is always 1."""
    return {name: ClassMetric(name) for name in VALUES if name != "top5" or classes > TOP}
