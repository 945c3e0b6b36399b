from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from compress.tasks.detect import MEAN_AVERAGE_PRECISION
from compress.tasks.mean_ap import THRESHOLDS, Detections, accuracy, average_precision, collect, iou, match
from compress.tasks.metric import Accuracy
from tests.fakes import detections, random_case, truth

CLASSES = ("cow", "pig")
BOX = (0, 0, 10, 10)


def judge(result: Sequence[Detections], truths: Sequence[np.ndarray], classes: Sequence[str] = CLASSES) -> Accuracy:
    return MEAN_AVERAGE_PRECISION.evaluate(result, truths, classes)


def test_duplicates_and_order_of_scores() -> None:
    two = [truth((0, *BOX), (0, 20, 20, 30, 30))]
    first, second = (0, 0.9, *BOX), (0, 0.8, *BOX)
    duplicate = judge([detections(first, second, (0, 0.7, 20, 20, 30, 30))], two)
    assert duplicate.value == pytest.approx((51 + 50 * 2 / 3) / 101)  # precision 1 up to recall 0.5, then 2/3
    wrong_first = judge([detections((0, 0.9, 50, 50, 60, 60), (0, 0.8, *BOX))], [truth((0, *BOX))])
    wrong_last = judge([detections((0, 0.7, 50, 50, 60, 60), (0, 0.8, *BOX))], [truth((0, *BOX))])
    assert wrong_first.value == pytest.approx(0.5) and wrong_last.value == pytest.approx(1)


def test_iou_decides_at_how_many_thresholds() -> None:
    shifted = judge([detections((0, 0.9, 0, 0, 10, 7.2))], [truth((0, *BOX))])  # IoU 0.72: 0.50 to 0.70
    assert shifted.value == pytest.approx(0.5) and shifted.map50 == pytest.approx(1)


def test_class_without_ground_truth_is_left_out() -> None:
    result = judge([detections((0, 0.9, *BOX), (1, 0.9, *BOX))], [truth((0, *BOX))])
    assert result.value == pytest.approx(1) and result.per_class == pytest.approx({"cow": 1})


def test_only_300_detections_of_an_image_count() -> None:
    noise = [(0, 0.9, 50, 50, 60, 60)] * 300
    assert judge([detections(*noise, (0, 0.8, *BOX))], [truth((0, *BOX))]).value == 0


def test_agrees_with_pycocotools() -> None:
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    actual, truths = random_case(40, 3, 6, 20)

    def wide(box: np.ndarray) -> list[float]:
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

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
            for i, d in enumerate(actual)
            for b, s, c in zip(d.boxes, d.scores, d.classes, strict=True)
        ]
    )
    referee = cocoeval.COCOeval(reference, results, "bbox")
    referee.params.maxDets = [300]
    referee.params.areaRng, referee.params.areaRngLbl = [[0, 1e10]], ["all"]
    referee.evaluate()
    referee.accumulate()
    precision = referee.eval["precision"][..., 0, 0]  # (thresholds, recalls, classes)
    result = judge(actual, truths, ("a", "b", "c"))
    assert result.value == pytest.approx(precision.mean(), abs=1e-8)
    assert result.map50 == pytest.approx(precision[0].mean(), abs=1e-8)


def test_a_resample_equals_evaluating_the_resampled_images() -> None:
    result, truths = random_case(20, 2, 5, 10)
    drawn = np.random.default_rng(1).integers(20, size=20)
    weights = np.bincount(drawn, minlength=20)[:, None]
    weighted = average_precision(collect(result, truths, 2), weights)
    again = collect([result[i] for i in sorted(drawn)], [truths[i] for i in sorted(drawn)], 2)
    assert weighted == pytest.approx(average_precision(again, np.ones((20, 1))), abs=1e-6)


def test_overlaps_are_those_of_a_loop_over_pairs() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 30, (2, 20, 2))
    left, right = (np.concatenate([each, each + rng.uniform(1, 20, (20, 2))], axis=1) for each in corners)
    result = iou(left.astype(np.float32), right.astype(np.float32))
    for i, a in enumerate(left.tolist()):
        for j, b in enumerate(right.tolist()):
            shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
            areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
            assert result[i, j] == pytest.approx(shared / (areas - shared), abs=1e-6)


def test_boxes_without_area_overlap_with_nothing() -> None:
    flat = np.array([[3, 3, 3, 3]], np.float32)
    assert iou(flat, flat).tolist() == [[0.0]]
    assert iou(np.array([BOX], np.float32), np.zeros((0, 4), np.float32)).shape == (1, 0)


def test_a_detection_takes_the_free_truth_of_highest_overlap_at_each_threshold() -> None:
    """The better detection takes the nearer truth; the second one gets the other where that overlaps enough."""
    truths = truth((0, *BOX), (0, 0, 2, 10, 12))
    first, second = (0, 0.9, *BOX), (0, 0.8, *BOX)  # overlap 1 with the one, 80 / 120 with the other
    won = match(detections(first, second), truths)
    assert won.shape == (2, 10) and won[0].all()
    assert won[1].tolist() == [bool(level <= 80 / 120) for level in THRESHOLDS]


def test_another_class_matches_nothing_and_a_truth_is_matched_once() -> None:
    assert not match(detections((1, 0.9, *BOX)), truth((0, *BOX))).any()
    assert match(detections((0, 0.9, *BOX), (0, 0.8, *BOX)), truth((0, *BOX))).sum(axis=1).tolist() == [10, 0]
    assert match(detections((0, 0.9, *BOX)), truth()).shape == (1, 10)


def test_an_overlap_that_equals_a_threshold_passes_it() -> None:
    half = detections((0, 0.9, 0, 0, 10, 5))
    assert match(half, truth((0, *BOX)))[0].tolist() == [True] + [False] * 9


def test_detections_count_in_descending_score_whatever_their_order() -> None:
    result, truths = random_case(8, 2, 4, 5)
    shuffled = []
    for each in result:
        order = np.random.default_rng(len(each.scores)).permutation(len(each.scores))
        shuffled.append(Detections(each.boxes[order], each.scores[order], each.classes[order]))
    assert judge(shuffled, truths).value == judge(result, truths).value


def test_a_class_without_truths_in_a_resample_has_no_precision_there() -> None:
    matches = collect([detections((0, 0.9, *BOX)), detections((1, 0.9, *BOX))], [truth((0, *BOX)), truth((1, *BOX))], 2)
    weights = np.array([[2, 0], [0, 1]])  # the first resample holds the first image alone, twice
    assert matches.truths.tolist() == [[1, 0], [0, 1]]
    precision = average_precision(matches, weights)[:, :, 0]
    np.testing.assert_allclose(precision, [[1, np.nan], [np.nan, 1]])


def test_more_resamples_than_one_block_are_computed_alike() -> None:
    result, truths = random_case(10, 2, 4, 5)
    matches = collect(result, truths, 2)
    weights = np.random.default_rng(0).integers(0, 3, (10, 150))
    alone = np.concatenate([average_precision(matches, weights[:, i : i + 1]) for i in range(150)])
    np.testing.assert_allclose(average_precision(matches, weights), alone, atol=1e-6)


def test_the_prefix_of_a_name_is_that_of_all_figures() -> None:
    truths = [truth((0, *BOX))]
    result = accuracy(collect([detections((0, 0.9, 0, 0, 10, 7.2))], truths, 2), CLASSES, "mask_mAP50", truths)
    assert (result.metric, result.value) == ("mask_mAP50", pytest.approx(1))
    assert result.details == pytest.approx({"mask_mAP50-95": 0.5, "mask_mAP75": 0})
