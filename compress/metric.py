"""`metric.target`: a metric of the user's own in place of the task's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compress import user_code
from compress.config import MetricConfig
from compress.errors import UserError
from compress.tasks import SupervisedTask
from compress.tasks.metric import KEY, Metric, UserMetric

if TYPE_CHECKING:
    from compress.data import DataSet, Split

EXPECTED = "a function (predictions, targets, classes) -> float in [0, 1], or a class that makes one"


def load(config: MetricConfig) -> Metric | None:
    """The metric that `config` names; None where it names none.

    Raises:
        UserError: it cannot be imported or made, or is no function.
    """
    if config.target is None:
        return None
    made = user_code.find(KEY, config.target, EXPECTED)
    if isinstance(made, type):
        made = user_code.load(KEY, config.target, config.args, EXPECTED)
    if not callable(made):
        raise UserError(KEY, config.target, f"is a {type(made).__name__}, expected is {EXPECTED}")
    name = getattr(made, "name", None) or config.target.rpartition(".")[2]
    return UserMetric(str(name), made, config.target)


def applied(config: MetricConfig, data: DataSet) -> DataSet:
    """`data` with the metric that `config` names, for all splits."""
    metric = load(config)
    if metric is None:
        return data
    assert isinstance(data.task, SupervisedTask)  # data sets with images have such a task
    task = replace(data.task, metric=metric)

    def split(split: Split) -> Split:
        return replace(split, task=task)

    return replace(
        data, task=task, train=split(data.train), calibration=split(data.calibration),
        validation=split(data.validation), extra={name: split(each) for name, each in data.extra.items()},
    )  # fmt: skip
