"""Agreement with the unpruned model: the metric of a task, with that model's predictions in place of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from compress.ledger import AGREEMENT
from compress.tasks.metric import Accuracy, Metric, UserMetric
from compress.tasks.task import SupervisedTask


@dataclass(frozen=True)
class Agreement:
    """The metric of `task`, whose targets are the unpruned model's predictions that score at least `confidence`.

    The unpruned model itself reaches 1. Its predictions below the confidence are not among the targets, but they rank
    behind all others, where they change no average precision; so a prediction of another model counts even if its score
    fell below the confidence. A user-defined metric may count every prediction: it gets those from the confidence on.
    """

    task: SupervisedTask
    confidence: float

    @property
    def name(self) -> str:
        return AGREEMENT + self.task.metric.name

    def evaluate(self, predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> Accuracy:
        """Evaluates as the metric of the task does. States no `chance`: an untrained model agrees with itself too."""
        metric: Metric = self.task.metric
        if isinstance(metric, UserMetric):
            predictions = list(self.task.confident(predictions, self.confidence))
        accuracy = metric.evaluate(predictions, targets, classes)
        return replace(accuracy, metric=AGREEMENT + accuracy.metric, chance=None)
