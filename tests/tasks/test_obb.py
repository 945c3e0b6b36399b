from __future__ import annotations

import math

import numpy as np
import pytest

from compress.tasks import OBB, Instances
from compress.tasks.augmentation import Augmentation
from compress.tasks.obb import RotatedDetections, corners, probiou, rotated, rotated_similarity

BOX = np.array([[30, 20, 20, 8, 0.5]], np.float32)


def predicted(boxes: np.ndarray, score: float = 0.9) -> RotatedDetections:
    count = len(boxes)
    return RotatedDetections(np.zeros((count, 4)), np.full(count, score), np.zeros(count, np.int64), boxes)


def test_corners_and_angles_are_inverse() -> None:
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.uniform(20, 40, (50, 2)), rng.uniform(12, 20, 50), rng.uniform(2, 10, 50),
                             rng.uniform(-math.pi / 4, 3 * math.pi / 4 - 1e-3, 50)])  # fmt: skip
    np.testing.assert_allclose(rotated(corners(boxes)), boxes, atol=1e-3)
    assert rotated(np.zeros((0, 4, 2))).shape == (0, 5)


def test_overlap_is_that_of_the_reference() -> None:
    """Two equal boxes at a distance: Bhattacharyya's distance is d² / (8 variance), with variance w² / 12."""
    moved = BOX + (0, 0, 0, 0, 0)
    moved[0, :2] += 4 * np.array([math.cos(0.5), math.sin(0.5)])
    expected = 1 - math.sqrt(1 - math.exp(-(4**2) / (8 * 20**2 / 12)))
    assert probiou(BOX, moved)[0, 0] == pytest.approx(expected, abs=1e-3)
    assert probiou(BOX, BOX)[0, 0] == pytest.approx(1, abs=1e-3)
    assert probiou(BOX, BOX + (500, 0, 0, 0, 0))[0, 0] == pytest.approx(0, abs=1e-3)


def test_overlap_equals_that_of_the_ultralytics_package() -> None:
    metrics = pytest.importorskip("ultralytics.utils.metrics")
    rng = np.random.default_rng(1)
    boxes = np.column_stack([rng.uniform(0, 30, (40, 2)), rng.uniform(3, 20, (40, 2)), rng.uniform(-1, 3, 40)])
    np.testing.assert_allclose(
        probiou(boxes[:20], boxes[20:]), metrics.batch_probiou(boxes[:20], boxes[20:]), atol=1e-5
    )


def test_a_row_is_four_corners() -> None:
    box, points = OBB.row([0.1, 0.2, 0.5, 0.2, 0.5, 0.8, 0.1, 0.8])
    assert box == pytest.approx([0.3, 0.5, 0.4, 0.6]) and len(points) == 8
    with pytest.raises(ValueError, match="5 columns.*model for detect"):
        OBB.row([0.5] * 4)
    with pytest.raises(ValueError, match="13 columns.*-seg"):
        OBB.row([0.5] * 12)


def test_a_batch_has_angles() -> None:
    target = Instances.of([[1, 20, 10, 40, 30]], [corners(BOX)[0]])
    batch = OBB.collate([np.zeros((64, 64, 3), np.uint8)], [target], Augmentation(), None)
    np.testing.assert_allclose(batch["bboxes"] * np.array([64, 64, 64, 64, 1]), BOX, atol=1e-3)


def test_a_cut_rectangle_is_fitted_to_the_part_inside() -> None:
    points = corners(np.array([[4, 30, 20, 8, 0.0]]))[0]  # x from -6 to 14
    cut = OBB.cut(Instances.of([[0, -6, 26, 14, 34]], [points]), (0, 0, 64, 64))
    np.testing.assert_allclose(rotated(cut.points[None]), [[7, 30, 14, 8, 0]], atol=1e-3)
    assert cut.boxes.tolist() == [[0, 0, 26, 14, 34]]


def test_the_metric_is_that_of_turned_boxes() -> None:
    target = Instances.of([[0, 20, 10, 40, 30]], [corners(BOX)[0]])
    turned = BOX + np.array([0, 0, 0, 0, 0.8], np.float32)
    assert OBB.metric.evaluate([predicted(BOX)], [target], ("a",)).value == pytest.approx(1)
    assert OBB.metric.evaluate([predicted(turned)], [target], ("a",)).value < 0.3
    assert rotated_similarity(predicted(BOX), target.take([])).shape == (1, 0)


def test_confidence_of_another_angle_is_not_compared() -> None:
    turned = BOX + np.array([0, 0, 0, 0, 1.5], np.float32)
    assert OBB.confidence_shift([predicted(BOX)], [predicted(BOX, 0.7)]) == pytest.approx(0.2)
    assert OBB.confidence_shift([predicted(BOX)], [predicted(turned)]) == 1


def test_labels_have_four_corners() -> None:
    label = Instances.of([[0, 0.5, 0.5, 0.2, 0.2]], [np.full((3, 2), 0.5)])
    assert "four corners" in str(OBB.label_problem(label, 1))
