"""Metrics: accuracy in [0, 1] on a set of images, with the interval of a percentile bootstrap over images (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13). All evaluations use the same resamples, for paired tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from compress import user_code
from compress.config import MetricConfig
from compress.errors import UserError, named
from compress.tasks.thresholds import Curve

RESAMPLES = 500
RESAMPLES_OF_USER_METRIC = 100  # fewer, since each calls the metric again
KEY = "metric.target"
NAME = "metric.name"
EXPECTED = "a function (predictions, targets, classes) -> float in [0, 1], or a class with such a __call__"


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on a set of images, in [0, 1]."""

    metric: str  # name of a metric of the task, such as "mAP50-95" or "top1", or of a user-defined metric
    value: float
    images: int
    ci95: tuple[float, float]
    map50: float | None = None
    chance: float | None = None  # classifiers: value of always ranking the classes by their frequency
    per_class: dict[str, float] = field(default_factory=dict)  # AP, or fraction recognised, of labelled classes
    details: dict[str, float] = field(default_factory=dict)  # further figures, which decide nothing
    confusion: np.ndarray | None = field(default=None, repr=False, compare=False)  # classifiers: (label, prediction)
    resampled: np.ndarray | None = field(default=None, repr=False, compare=False)  # (500,), value of each resample
    curve: Curve | None = field(default=None, repr=False, compare=False)  # of scored instances, at an overlap of 0.5
    fingerprint: str = field(default="", repr=False)  # of the targets: equal for evaluations on the same images

    def row(self) -> dict[str, Any]:
        """Returns the entries of a ledger row: metric, value, images, ci95, and those of map50, chance, details,
        per_class and confusion that are set."""
        row = {"metric": self.metric, "value": self.value, "images": self.images, "ci95": list(self.ci95)}
        confusion = None if self.confusion is None else self.confusion.tolist()
        optional = {
            "map50": self.map50, "chance": self.chance, "details": self.details, "per_class": self.per_class,
            "confusion": confusion,
        }  # fmt: skip
        return {**row, **{key: value for key, value in optional.items() if value not in (None, {})}}


class Metric(Protocol):
    """Computes an accuracy from predictions and targets."""

    @property
    def name(self) -> str: ...

    def evaluate(self, predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> Accuracy:
        """Returns the accuracy of predictions, one per image. Raises UserError if the targets do not allow it, for
        example because no object is labelled."""


@dataclass(frozen=True)
class UserMetric:
    """A user-defined `function(predictions, targets, classes) -> float` in [0, 1]; higher is better."""

    name: str
    function: Any
    path: str  # import path, for error messages

    def evaluate(self, predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> Accuracy:
        """Raises UserError if the function raises, or does not return a number in [0, 1]."""
        value = self._value(predictions, targets, classes)
        counts = resamples(len(targets), RESAMPLES_OF_USER_METRIC)
        samples = [np.repeat(np.arange(len(targets)), column).tolist() for column in counts.T]
        pairs = (([predictions[i] for i in rows], [targets[i] for i in rows]) for rows in samples)
        resampled = np.array([self._value(*pair, classes) for pair in pairs])
        digest = fingerprint([np.asarray(target) for target in targets])
        return Accuracy(self.name, value, len(targets), interval(resampled), resampled=resampled, fingerprint=digest)

    def _value(self, predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> float:
        try:
            returned = self.function(predictions, targets, classes)
            if isinstance(returned, str | bytes):  # which float would read
                raise TypeError("it returns a text")
            value = float(returned)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # the user's own code
            raise UserError(KEY, self.path, f"raised {named(error)}: return a number in [0, 1]") from error
        if not 0 <= value <= 1:
            raise UserError(KEY, self.path, f"returned {value}: return a number in [0, 1], higher is better")
        return value


def select(config: MetricConfig, available: Mapping[str, Metric]) -> Metric | None:
    """Returns the metric that `config` names among those `available` for a task, or loads a user-defined one; None if
    neither is set. Raises UserError if the task has no such metric, or see `load`."""
    if config.name is None:
        return load(config)
    if config.name not in available:
        names = ", ".join(available)
        raise UserError(NAME, config.name, f"this task and data have {names}; set one, or your own with {KEY}")
    return available[config.name]


def load(config: MetricConfig) -> Metric | None:
    """Loads the metric at `config.target`; None if it is not set. Raises UserError if it cannot be imported or
    instantiated, or is not callable."""
    if config.target is None:
        return None
    function = user_code.find(KEY, config.target, EXPECTED)
    if isinstance(function, type):
        function = user_code.load(KEY, config.target, config.args, EXPECTED)
    if not callable(function):
        raise UserError(KEY, config.target, f"is a {type(function).__name__}; expected {EXPECTED}")
    name = getattr(function, "name", None) or config.target.rpartition(".")[2]
    return UserMetric(str(name), function, config.target)


def resamples(images: int, count: int = RESAMPLES) -> np.ndarray:
    """Returns (images, count), the number of occurrences of each image in each resample; fixed for given arguments."""
    drawn = np.random.default_rng(0).integers(images, size=(count, images))
    return np.stack([np.bincount(row, minlength=images) for row in drawn], axis=1)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % percentile interval of resampled values."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def fingerprint(arrays: Sequence[np.ndarray]) -> str:
    """Returns a hash of shapes and values: 16 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode() + array.tobytes())
    return digest.hexdigest()[:16]
