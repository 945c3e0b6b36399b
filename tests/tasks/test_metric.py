from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from compress.config import MetricConfig
from compress.errors import UserError
from compress.tasks import CLASSIFY, DETECT
from compress.tasks.metric import RESAMPLES, UserMetric, fingerprint, interval, load, resamples, select


def mean_of(predictions: Sequence[float], targets: Sequence[float], classes: Sequence[str]) -> float:
    return float(np.mean(predictions))


class Scaled:
    name = "scaled mean"

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, predictions: Sequence[float], targets: Sequence[float], classes: Sequence[str]) -> float:
        return self.factor * mean_of(predictions, targets, classes)


def test_resamples_are_fixed_and_draw_with_replacement() -> None:
    counts = resamples(50)
    assert counts.shape == (50, RESAMPLES) and (counts.sum(axis=0) == 50).all() and counts.max() > 1
    assert (counts == resamples(50)).all()
    assert counts.mean() == 1 and (counts == 0).mean() == pytest.approx(math.exp(-1), abs=0.02)


def test_the_interval_leaves_out_a_fortieth_on_either_side() -> None:
    assert interval(np.arange(1001.0)) == (25.0, 975.0)


def test_fingerprints_tell_shapes_and_values() -> None:
    arrays = [np.arange(4.0), np.zeros(2)]
    assert fingerprint(arrays) == fingerprint([each.copy() for each in arrays]) and len(fingerprint(arrays)) == 16
    others: list[list[np.ndarray]] = [
        arrays[::-1],
        arrays[:1],
        [np.arange(4.0).reshape(2, 2), np.zeros(2)],
        [np.arange(4.0), np.ones(2)],
    ]
    assert len({fingerprint(each) for each in (arrays, *others)}) == 5


def test_a_functions_interval_is_a_bootstrap_over_images() -> None:
    values = np.linspace(0, 1, 200).tolist()
    result = UserMetric("mean", mean_of, "own.mean").evaluate(values, values, ("a",))
    assert (result.metric, result.images) == ("mean", 200) and result.value == pytest.approx(0.5)
    width = result.ci95[1] - result.ci95[0]
    assert width == pytest.approx(2 * 1.96 * np.std(values) / math.sqrt(200), rel=0.25)


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.5, math.inf])
def test_values_outside_zero_to_one_are_refused(value: float) -> None:
    with pytest.raises(UserError, match="return a number in \\[0, 1\\]") as caught:
        UserMetric("bad", lambda *_: value, "own.bad").evaluate([1], [1], ("a",))
    assert (caught.value.key, caught.value.value) == ("metric.target", "own.bad")


@pytest.mark.parametrize("returned", ["text", "0.5", b"0.5", None, [0.5, 0.5]])
def test_what_is_no_number_is_refused(returned: object) -> None:
    with pytest.raises(UserError, match="raised (ValueError|TypeError)"):
        UserMetric("bad", lambda *_: returned, "own.bad").evaluate([1], [1], ("a",))


def test_metrics_are_loaded_by_import_path() -> None:
    here = "tests.tasks.test_metric"
    assert load(MetricConfig()) is None
    function = load(MetricConfig(target=f"{here}.mean_of"))
    scaled = load(MetricConfig(target=f"{here}.Scaled", args={"factor": 0.5}))
    assert function is not None and scaled is not None
    assert (function.name, scaled.name) == ("mean_of", "scaled mean")
    assert scaled.evaluate([1.0, 0.5], [0, 0], ()).value == pytest.approx(0.375)
    with pytest.raises(UserError, match="is a str; expected a function"):
        load(MetricConfig(target=f"{here}.__name__"))


def test_a_metric_of_the_task_is_selected_by_name() -> None:
    for available in (CLASSIFY.metrics(10), DETECT.metrics(10)):
        for name, metric in available.items():
            assert metric.name == name and select(MetricConfig(name=name), available) is metric
    chosen = select(MetricConfig(name="mAP75"), DETECT.metrics(3))
    assert chosen is not None and chosen.name == "mAP75"
    assert select(MetricConfig(), DETECT.metrics(3)) is None
    own = select(MetricConfig(target="tests.tasks.test_metric.mean_of"), DETECT.metrics(3))
    assert isinstance(own, UserMetric)


def test_a_metric_of_another_task_is_refused() -> None:
    with pytest.raises(UserError, match="have mAP50-95, mAP50, mAP75; set one") as caught:
        select(MetricConfig(name="top5"), DETECT.metrics(10))
    assert (caught.value.key, caught.value.value) == ("metric.name", "top5")


def test_a_name_and_an_import_path_exclude_each_other() -> None:
    with pytest.raises(UserError, match="set one of them"):
        MetricConfig(name="top1", target="pkg.metric")
