from __future__ import annotations

import time

import numpy as np
import pytest

from compress.errors import TargetFailed, UserError
from compress.measurement.accuracy import evaluate, paired_difference
from compress.tasks import CLASSIFY, DETECT
from compress.tasks.mean_ap import Detections

CLASSES = ("cow", "pig")


class Split:
    def __init__(self, targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def image(self, index):
        return np.full((4, 4, 3), index % 256, np.uint8)

    def target(self, index):
        return self.targets[index]


def detections(*rows):
    """Rows of class, score, x1, y1, x2, y2."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, 2:], table[:, 1], table[:, 0].astype(np.int64))


def truth(*rows):
    return np.array(rows, np.float32).reshape(-1, 5)


def run(found, truths, classes=CLASSES, **options):
    calls = iter(range(len(found)))
    decode = lambda out: [found[next(calls)] for _ in out]  # noqa: E731
    return evaluate(lambda images: images, decode, Split(truths), DETECT, classes, **options)


BOX = (0, 0, 10, 10)


def test_perfect_is_one_and_wrong_is_zero():
    truths = [truth((0, *BOX), (1, 20, 20, 30, 40)), truth((1, *BOX))]
    found = [detections((0, 0.9, *BOX), (1, 0.8, 20, 20, 30, 40)), detections((1, 0.3, *BOX))]
    perfect = run(found, truths)
    assert perfect.value == pytest.approx(1) and perfect.map50 == pytest.approx(1)
    assert perfect.per_class == pytest.approx({"cow": 1, "pig": 1})
    assert perfect.ci95 == pytest.approx((1, 1)) and perfect.images == 2
    assert run([detections((1, 0.9, *BOX)), detections()], [truth((0, *BOX))] * 2).value == 0


def test_duplicates_and_order_of_scores():
    two = [truth((0, *BOX), (0, 20, 20, 30, 30))]
    first, second = (0, 0.9, *BOX), (0, 0.8, *BOX)
    duplicate = run([detections(first, second, (0, 0.7, 20, 20, 30, 30))], two)
    assert duplicate.value == pytest.approx((51 + 50 * 2 / 3) / 101)  # precision 1 up to recall 0.5, then 2/3
    wrong_first = run([detections((0, 0.9, 50, 50, 60, 60), (0, 0.8, *BOX))], [truth((0, *BOX))])
    wrong_last = run([detections((0, 0.7, 50, 50, 60, 60), (0, 0.8, *BOX))], [truth((0, *BOX))])
    assert wrong_first.value == pytest.approx(0.5) and wrong_last.value == pytest.approx(1)


def test_iou_decides_at_how_many_thresholds():
    shifted = run([detections((0, 0.9, 0, 0, 10, 7.2))], [truth((0, *BOX))])  # IoU 0.72: 0.50 to 0.70
    assert shifted.value == pytest.approx(0.5) and shifted.map50 == pytest.approx(1)


def test_class_without_ground_truth_is_left_out():
    result = run([detections((0, 0.9, *BOX), (1, 0.9, *BOX))], [truth((0, *BOX))])
    assert result.value == pytest.approx(1) and result.per_class == pytest.approx({"cow": 1})


def test_only_300_detections_of_an_image_count():
    noise = [(0, 0.9, 50, 50, 60, 60)] * 300
    assert run([detections(*noise, (0, 0.8, *BOX))], [truth((0, *BOX))]).value == 0


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="validation"):
        run([], [])
    with pytest.raises(UserError, match="labelled"):
        run([detections()], [truth()])
    with pytest.raises(TargetFailed, match="NaN"):
        run([detections((0, np.nan, *BOX))], [truth((0, *BOX))])
    with pytest.raises(TargetFailed, match="predictions"):
        evaluate(lambda x: x, lambda x: [], Split([truth((0, *BOX))]), DETECT, CLASSES)


def random_case(images, classes, objects, extra, seed=0):
    rng = np.random.default_rng(seed)
    found, truths = [], []
    for _ in range(images):
        n = rng.integers(0, 2 * objects)
        corner, size = rng.uniform(0, 200, (n, 2)), rng.uniform(8, 50, (n, 2))
        boxes, labels = np.concatenate([corner, corner + size], 1), rng.integers(classes, size=n)
        truths.append(np.concatenate([labels[:, None], boxes], 1).astype(np.float32))
        copies = np.repeat(np.arange(n), rng.integers(0, 4, n))
        near = boxes[copies] + rng.normal(0, 3, (len(copies), 4))
        corner, size = rng.uniform(0, 200, (extra, 2)), rng.uniform(8, 50, (extra, 2))
        everything = np.concatenate([near, np.concatenate([corner, corner + size], 1)])
        all_labels = np.concatenate([labels[copies], rng.integers(classes, size=extra)])
        scores = np.concatenate([rng.beta(3, 2, len(copies)), rng.beta(1, 4, extra)])
        order = np.argsort(-scores, kind="stable")[:300]
        found.append(Detections(everything[order], scores[order], all_labels[order]))
    return found, truths


def test_agrees_with_pycocotools():
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    found, truths = random_case(40, 3, 6, 20)
    wide = lambda b: [float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])]  # noqa: E731
    annotations = [
        {"image_id": i, "category_id": int(t[0]), "bbox": wide(t[1:]), "area": 1.0, "iscrowd": 0}
        for i, rows in enumerate(truths)
        for t in rows
    ]
    for index, annotation in enumerate(annotations):
        annotation["id"] = index + 1
    reference = coco.COCO()
    reference.dataset = {
        "info": {}, "images": [{"id": i} for i in range(40)], "annotations": annotations,
        "categories": [{"id": c} for c in range(3)],
    }  # fmt: skip
    reference.createIndex()
    results = reference.loadRes(
        [
            {"image_id": i, "category_id": int(c), "bbox": wide(b), "score": float(s)}
            for i, d in enumerate(found)
            for b, s, c in zip(d.boxes, d.scores, d.classes, strict=True)
        ]
    )
    judge = cocoeval.COCOeval(reference, results, "bbox")
    judge.params.maxDets = [300]
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.evaluate()
    judge.accumulate()
    precision = judge.eval["precision"][..., 0, 0]  # (thresholds, recalls, classes)
    result = run(found, truths, ("a", "b", "c"))
    assert result.value == pytest.approx(precision.mean(), abs=1e-8)
    assert result.map50 == pytest.approx(precision[0].mean(), abs=1e-8)


def test_intervals_cover_and_pairs_are_tighter():
    found, truths = random_case(60, 2, 5, 10)
    better = run(found, truths)
    assert better.ci95[0] < better.value < better.ci95[1]
    worse = run([Detections(d.boxes + 0.5, d.scores, d.classes) for d in found], truths)
    difference, (low, high) = paired_difference(better, worse)
    assert difference == pytest.approx(better.value - worse.value) and low < difference < high
    assert high - low < (better.ci95[1] - better.ci95[0]) / 2
    assert run(found, truths, batch=7) == better  # seeded, and batches do not matter
    with pytest.raises(ValueError, match="same images"):
        paired_difference(better, run(found[:50], truths[:50]))


def test_a_resample_equals_evaluating_the_resampled_images():
    from compress.tasks.mean_ap import average_precision, collect

    found, truths = random_case(20, 2, 5, 10)
    drawn = np.random.default_rng(1).integers(20, size=20)
    weights = np.bincount(drawn, minlength=20)[:, None]
    weighted = average_precision(collect(found, truths, 2), weights)
    again = collect([found[i] for i in sorted(drawn)], [truths[i] for i in sorted(drawn)], 2)
    assert weighted == pytest.approx(average_precision(again, np.ones((20, 1))), abs=1e-6)


def test_top1():
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
    }


def test_is_fast():
    found, truths = random_case(200, 5, 6, 270)
    start = time.process_time()
    run(found, truths)
    assert time.process_time() - start < 4
