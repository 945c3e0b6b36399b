from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from compress.errors import TargetFailed, UserError
from compress.measurement.accuracy import evaluate
from compress.tasks import CLASSIFY, DETECT
from compress.tasks.mean_ap import Detections
from compress.tasks.metric import Accuracy, interval
from tests.fakes import detections, random_case, truth

CLASSES = ("cow", "pig")


class Split:
    def __init__(self, targets: Sequence[np.ndarray | int]) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def image(self, index: int) -> np.ndarray:
        return np.full((4, 4, 3), index % 256, np.uint8)

    def target(self, index: int) -> np.ndarray | int:
        return self.targets[index]


def run(result: list[Detections], truths: list[np.ndarray], batch: int = 1) -> Accuracy:
    calls = iter(range(len(result)))
    decode = lambda out: [result[next(calls)] for _ in out]  # noqa: E731
    return evaluate(lambda images: images, decode, Split(truths), DETECT, CLASSES, batch=batch)


BOX = (0, 0, 10, 10)


def test_perfect_is_one_and_wrong_is_zero() -> None:
    truths = [truth((0, *BOX), (1, 20, 20, 30, 40)), truth((1, *BOX))]
    result = [detections((0, 0.9, *BOX), (1, 0.8, 20, 20, 30, 40)), detections((1, 0.3, *BOX))]
    perfect = run(result, truths)
    assert perfect.value == pytest.approx(1) and perfect.map50 == pytest.approx(1)
    assert perfect.per_class == pytest.approx({"cow": 1, "pig": 1})
    assert perfect.ci95 == pytest.approx((1, 1)) and perfect.images == 2
    assert run([detections((1, 0.9, *BOX)), detections()], [truth((0, *BOX))] * 2).value == 0


def test_bad_input_is_refused() -> None:
    with pytest.raises(UserError, match="validation"):
        run([], [])
    with pytest.raises(UserError, match="labelled"):
        run([detections()], [truth()])
    with pytest.raises(TargetFailed, match="NaN"):
        run([detections((0, np.nan, *BOX))], [truth((0, *BOX))])
    with pytest.raises(TargetFailed, match="predictions"):
        evaluate(lambda x: x, lambda x: [], Split([truth((0, *BOX))]), DETECT, CLASSES)


def test_intervals_cover_and_pairs_are_tighter() -> None:
    result, truths = random_case(60, 2, 5, 10)
    better = run(result, truths)
    assert better.ci95[0] < better.value < better.ci95[1]
    worse = run([Detections(d.boxes + 0.5, d.scores, d.classes) for d in result], truths)
    assert better.resampled is not None and better.fingerprint == worse.fingerprint
    low, high = interval(better.resampled - worse.resampled)  # of the same images
    assert low < better.value - worse.value < high
    assert high - low < (better.ci95[1] - better.ci95[0]) / 2
    assert run(result, truths, batch=7) == better  # seeded, and batches do not matter
    assert run(result[:50], truths[:50]).fingerprint != better.fingerprint


def test_top1() -> None:
    scores = np.eye(3)[[0, 1, 2, 0]]
    split, rows = Split([0, 1, 2, 2]), iter(scores)
    result = evaluate(lambda x: x, lambda out: np.stack([next(rows)]), split, CLASSIFY, ("a", "b", "c"))
    assert result.metric == "top1" and result.value == 0.75
    assert result.per_class == {"a": 1, "b": 1, "c": 0.5}
    assert result.row() == {
        "metric": "top1",
        "value": 0.75,
        "images": 4,
        "ci95": list(result.ci95),
        "chance": result.chance,
        "details": result.details,
        "per_class": result.per_class,
        "confusion": [[1, 0, 0], [0, 1, 0], [1, 0, 1]],
    }
