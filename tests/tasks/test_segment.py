from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from compress.tasks import SEGMENT, Instances
from compress.tasks.augmentation import Augmentation
from compress.tasks.segment import MaskDetections, area, encoded, indices, mask_similarity, rasterised
from tests.tasks.shapes import corners


def predicted(masks: np.ndarray, scores: list[float]) -> MaskDetections:
    count = len(masks)
    return MaskDetections(np.zeros((count, 4)), np.array(scores), np.zeros(count, np.int64), encoded(masks))


def test_a_row_is_a_polygon_with_its_bounding_box() -> None:
    box, points = SEGMENT.row([0.1, 0.2, 0.5, 0.2, 0.3, 0.8])
    assert box == pytest.approx([0.3, 0.5, 0.4, 0.6]) and points == [0.1, 0.2, 0.5, 0.2, 0.3, 0.8]


@pytest.mark.parametrize(("count", "message"), [(4, "polygon of two points"), (5, "6 columns"), (7, "8 columns")])
def test_rows_that_are_no_polygon_are_refused(count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SEGMENT.row([0.5] * count)


def test_masks_are_a_quarter_of_the_input_and_keep_holes() -> None:
    whole = corners(0, 0, 31, 31)
    hole = np.concatenate([whole, np.full((1, 2), np.nan), corners(8, 8, 23, 23)])
    masks = rasterised([whole, hole], 32)
    assert masks.shape == (2, 8, 8) and masks[0].all()
    assert masks[1, 3:5, 3:5].sum() == 0 and masks[1, 0].all()


def test_areas_are_those_of_all_rings() -> None:
    square = corners(0, 0, 10, 10)
    assert area(square) == 100
    assert area(np.concatenate([square, np.full((1, 2), np.nan), square[::-1] + 50])) == 200


def test_smaller_objects_lie_on_larger_ones() -> None:
    """Also if the labels are in another order, and there are more than a byte can count."""
    target = Instances.of([[0, 0, 0, 8, 8], [1, 0, 0, 32, 32]], [corners(0, 0, 7, 7), corners(0, 0, 31, 31)])
    batch = SEGMENT.collate([np.zeros((32, 32, 3), np.uint8)], [target], Augmentation(), None)
    assert batch["cls"].tolist() == [[1], [0]]
    assert batch["masks"].shape == (1, 8, 8) and batch["masks"][0, 0, 0] == 2 and batch["masks"][0, 7, 7] == 1
    assert batch["sem_masks"][0, 0, 0] == 0 and batch["sem_masks"][0, 7, 7] == 1
    assert indices(np.ones((300, 2, 2), np.uint8)).max() == 300


def test_similarity_is_that_of_the_visible_masks() -> None:
    """The larger square is covered by the smaller one in a quarter of its area."""
    target = Instances.of([[0, 0, 0, 32, 32], [0, 0, 0, 16, 16]], [corners(0, 0, 31, 31), corners(0, 0, 15, 15)])
    full, quarter = np.ones((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    quarter[:4, :4] = 1
    detections = predicted(np.stack([full, quarter]), [0.9, 0.8])
    np.testing.assert_allclose(mask_similarity(detections, target), [[0.75, 0.25], [0.0, 1.0]])
    np.testing.assert_allclose(mask_similarity(detections, detections), [[1.0, 0.25], [0.25, 1.0]])
    assert mask_similarity(detections, target.take([])).shape == (2, 0)
    assert mask_similarity(detections.take(np.array([], int)), target).shape == (0, 2)


def test_the_metric_counts_masks_and_reports_boxes() -> None:
    target = Instances.of([[0, 0, 0, 31, 31]], [corners(0, 0, 31, 31)])
    half = np.zeros((1, 8, 8), np.uint8)
    half[0, :, :5] = 1  # IoU 0.625: three of ten thresholds
    detections = MaskDetections(target.boxes[:, 1:], np.array([0.9]), np.zeros(1, np.int64), encoded(half))
    accuracy = SEGMENT.metric.evaluate([detections], [target], ("a",))
    assert accuracy.metric == "mask_mAP50-95" and accuracy.value == pytest.approx(0.3)
    assert accuracy.details["box_mAP50-95"] == pytest.approx(1) and accuracy.map50 == pytest.approx(1)


def test_average_precision_agrees_with_pycocotools() -> None:
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(3)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    predictions, targets = [], []
    for image in range(12):
        x, y = rng.integers(0, 12, 2) * 4
        shapes = [corners(x, y, x + 43, y + 27), corners(100 - y, 90, 125 - y, 127)]  # apart
        target = Instances.of([[0, *shape.min(0), *shape.max(0)] for shape in shapes], shapes)
        truth = rasterised(shapes, 128)
        moved = np.stack([np.roll(mask, rng.integers(0, 4), axis=rng.integers(2)) for mask in truth])
        scores = rng.uniform(0.1, 1, 2).tolist()
        predictions.append(predicted(moved, scores))
        targets.append(target)
        for mask, own, score in zip(truth, moved, scores):
            area = float(mask.sum())
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": 0, "iscrowd": 0, "area": area,
                 "segmentation": coco_mask.encode(np.asfortranarray(mask)), "bbox": [0, 0, 1, 1]}
            )  # fmt: skip
            rle = coco_mask.encode(np.asfortranarray(own))
            results.append({"image_id": image, "category_id": 0, "segmentation": rle, "score": score})
    reference = coco.COCO()
    images = [{"id": i, "height": 32, "width": 32} for i in range(12)]
    reference.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 0}]}
    reference.createIndex()
    referee = cocoeval.COCOeval(reference, reference.loadRes(results), "segm")
    referee.params.maxDets = [300]
    referee.params.areaRng, referee.params.areaRngLbl = [[0, 1e10]], ["all"]
    referee.evaluate()
    referee.accumulate()
    expected = referee.eval["precision"][..., 0, 0].mean()
    assert 0.1 < expected < 0.9
    assert SEGMENT.metric.evaluate(predictions, targets, ("a",)).value == pytest.approx(expected, abs=1e-8)


def test_confidence_of_another_mask_is_not_compared() -> None:
    full = np.ones((1, 8, 8), np.uint8)
    half = full.copy()
    half[:, :, 3:] = 0
    before = [predicted(full, [0.9])]
    assert SEGMENT.confidence_shift(before, [predicted(full, [0.7])]) == pytest.approx(0.2)
    assert SEGMENT.confidence_shift(before, [predicted(half, [0.9])]) == 1
    assert SEGMENT.confidence_shift([predicted(full, [0.1])], before) is None
