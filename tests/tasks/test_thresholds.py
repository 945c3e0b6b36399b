from __future__ import annotations

import numpy as np

from compress.ledger import OperatingPoint
from compress.tasks.thresholds import Curve, compared, of_baseline


def curve(instances: int, *detections: tuple[float, bool]) -> Curve:
    scores, matched = zip(*detections) if detections else ((), ())
    return Curve.of(np.array(scores, np.float64), np.array(matched, bool), instances)


# In any order: 0.9 right, 0.8 right, 0.5 wrong and right, 0.1 wrong.
BASELINE = curve(4, (0.5, False), (0.9, True), (0.1, False), (0.5, True), (0.8, True))


def test_detections_of_equal_score_pass_together() -> None:
    assert BASELINE.scores.tolist() == [0.9, 0.8, 0.5, 0.1]
    assert BASELINE.detected.tolist() == [1, 2, 4, 5] and BASELINE.true.tolist() == [1, 2, 3, 3]


def test_the_best_f1_score_has_a_threshold() -> None:
    assert BASELINE.best_f1() == OperatingPoint(0.5, 0.75, 0.75)
    assert curve(4).best_f1() is None


def test_a_threshold_between_scores_is_itself_stated() -> None:
    assert BASELINE.at(0.25) == OperatingPoint(0.25, 0.75, 0.75)
    assert BASELINE.at(0.8) == OperatingPoint(0.8, 1.0, 0.5)
    assert BASELINE.at(0.95) is None


def test_a_precision_is_reached_at_the_highest_recall() -> None:
    """Precision falls and rises again: 1, 1/2, 2/3, 3/4, 3/5."""
    artifact = curve(4, (0.9, True), (0.8, False), (0.7, True), (0.6, True), (0.2, False))
    assert artifact.reaching(0.75) == OperatingPoint(0.6, 0.75, 0.75)
    assert artifact.reaching(0.8) == OperatingPoint(0.9, 1.0, 0.25)
    assert curve(4, (0.9, False)).reaching(0.1) is None


def test_the_same_detections_have_the_threshold_of_the_baseline() -> None:
    shifted = Curve(BASELINE.scores - 0.05, BASELINE.detected, BASELINE.true, BASELINE.instances)
    assert shifted.reaching(0.75, near=0.3) == shifted.best_f1(near=0.3) == OperatingPoint(0.3, 0.75, 0.75)
    assert shifted.reaching(0.75, near=0.5) == OperatingPoint(0.45, 0.75, 0.75)
    assert shifted.reaching(0.75, near=0.05) == OperatingPoint(0.45, 0.75, 0.75)


def test_lower_confidences_need_a_lower_threshold_and_cost_nothing() -> None:
    baseline = of_baseline(BASELINE, agreement=False)
    halved = Curve(BASELINE.scores / 2, BASELINE.detected, BASELINE.true, BASELINE.instances)
    entries = compared(halved, baseline, agreement=False)
    assert entries.keys() == {"best_f1", "confidence_0.25"}
    assert {name: each.artifact for name, each in entries.items()} == {
        "best_f1": OperatingPoint(0.25, 0.75, 0.75), "confidence_0.25": OperatingPoint(0.25, 0.75, 0.75)
    }  # fmt: skip
    assert all(each.baseline == baseline[name].baseline for name, each in entries.items())


def test_a_precision_out_of_reach_says_the_highest() -> None:
    worse = curve(4, (0.9, False), (0.8, True))
    each = compared(worse, of_baseline(BASELINE, agreement=False), agreement=False)["best_f1"]
    assert each.artifact is None and each.reason == "its precision is at most 0.5000 at any threshold"


def test_agreement_is_the_threshold_that_reproduces_most() -> None:
    """The precision of the baseline is 1 by construction, which an artifact reaches with few detections only."""
    itself = of_baseline(curve(2, (0.9, True), (0.3, True), (0.2, False)), agreement=True)
    assert itself.keys() == {"best_f1"} and itself["best_f1"].baseline == OperatingPoint(0.3, 1.0, 1.0)
    other = curve(2, (0.8, True), (0.4, False), (0.3, True))
    assert compared(other, itself, agreement=True)["best_f1"].artifact == OperatingPoint(0.3, 2 / 3, 1.0)


def test_a_baseline_that_finds_nothing_has_no_points() -> None:
    assert of_baseline(curve(4), agreement=False) == {}
    assert of_baseline(curve(4, (0.1, True)), agreement=False).keys() == {"best_f1"}
