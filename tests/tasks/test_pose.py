from __future__ import annotations

import numpy as np
import pytest

from compress.tasks import Instances
from compress.tasks.augmentation import AERIAL, Augmentation
from compress.tasks.pose import COCO_SIGMAS, KeypointDetections, keypoint_similarity, oks
from tests.tasks.shapes import pose

BOX = [1, 0, 0, 20, 10]
POINTS = np.array([[20, 5, 2], [0, 5, 2], [10, 0, 2], [10, 10, 1]], np.float32)  # front, rear, left, right


def predicted(points: np.ndarray, score: float = 0.9) -> KeypointDetections:
    box = np.array([BOX[1:]], np.float32)
    return KeypointDetections(box, np.array([score]), np.array([1]), points[None])


def test_a_row_has_the_keypoints_of_the_data() -> None:
    box, points = pose(2, None).row([0.5, 0.5, 0.2, 0.2, 0.4, 0.4, 2, 0.9, 0.9, 0])
    assert box == [0.5, 0.5, 0.2, 0.2] and points == [0.4, 0.4, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5] * 4, "these are boxes"),
        ([0.5] * 8, "obb"),
        ([0.5] * 13, "14 columns instead of 11.*2 keypoints of 3"),
        ([0.5, 0.5, 0.2, 0.2, 0.4, 0.4, 3, 0.9, 0.9, 0], "visibility"),
    ],
)
def test_rows_with_other_keypoints_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pose(2, None).row(values)


def test_left_and_right_are_exchanged_in_a_mirror() -> None:
    """In every batch the front is where the object's front is, and its right is to the right of its heading."""
    image = np.zeros((64, 64, 3), np.uint8)
    target = Instances.of([[0, 22, 27, 42, 37]], [POINTS + (22, 27, 0)], 3)
    turned = set()
    for seed in range(40):
        batch = pose().collate([image], [target], AERIAL, np.random.default_rng(seed))
        front, rear, left, right = batch["keypoints"][0, :, :2].numpy() * 64
        along, across = front - rear, right - left
        assert along[0] * across[1] - along[1] * across[0] > 0
        turned.add(tuple(np.sign(along.round(3)).tolist()))
    assert len(turned) == 4  # headings in all directions


def test_without_a_mirror_index_images_are_not_mirrored() -> None:
    target = Instances.of([[0, 22, 27, 42, 37]], [POINTS + (22, 27, 0)], 3)
    for seed in range(10):
        batch = pose(4, None).collate([np.zeros((64, 64, 3), np.uint8)], [target], AERIAL, np.random.default_rng(seed))
        assert batch["keypoints"][0, 0, 0] > batch["keypoints"][0, 1, 0]


def test_points_outside_the_image_are_not_visible() -> None:
    cut = pose().cut(Instances.of([[0, 0, 0, 20, 10]], [POINTS], 3), (5, 0, 40, 40))
    assert cut.points[:, 2].tolist() == [2, 0, 2, 1]
    batch = pose().collate([np.zeros((40, 40, 3), np.uint8)], [cut], Augmentation(), None)
    assert batch["keypoints"].shape == (1, 4, 3) and batch["keypoints"][0, 0].tolist() == [0.5, 0.125, 2]


def test_similarity_is_coco_s() -> None:
    """exp(-d² / (2 s² (2σ)²)) at one sigma of the first keypoint; unlabelled points do not count."""
    truth = np.zeros((1, 17, 3))
    truth[0, :2, 2] = 2
    area = np.array([400.0])
    points = truth[:, :, :2].copy()
    points[0, 0, 0] = 2 * COCO_SIGMAS[0] * 20
    points[0, 5:] = 1e3  # not labelled
    assert oks(points, truth, area)[0, 0] == pytest.approx((np.exp(-0.5) + 1) / 2, abs=1e-6)
    truth[0, :, 2] = 0
    assert oks(points, truth, area)[0, 0] == 0


def test_the_metric_is_that_of_the_keypoints() -> None:
    target = Instances.of([BOX], [POINTS], 3)
    exact, off = predicted(POINTS), predicted(POINTS + (15, 0, 0))
    assert keypoint_similarity(exact, target)[0, 0] == pytest.approx(1)
    task = pose()
    assert task.metric.evaluate([exact], [target], ("a", "b")).value == pytest.approx(1)
    result = task.metric.evaluate([off], [target], ("a", "b"))
    assert result.value < 0.5 and result.details["box_mAP50-95"] == pytest.approx(1)
    assert keypoint_similarity(exact, target.take([])).shape == (1, 0)


def test_confidence_of_other_points_is_not_compared() -> None:
    assert pose().confidence_shift([predicted(POINTS)], [predicted(POINTS, 0.8)]) == pytest.approx(0.1)
    assert pose().confidence_shift([predicted(POINTS)], [predicted(POINTS + (15, 0, 0))]) == 1


def test_labels_need_the_keypoints_of_the_task() -> None:
    label = Instances.of([[0, 0.5, 0.5, 0.2, 0.2]], [np.full((3, 3), 0.5)], 3)
    assert "exactly 4 keypoints" in str(pose().label_problem(label, 1))
    assert pose(3, None).label_problem(label, 1) is None
