from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress.tasks import OBB, POSE, SEGMENT, Instances, InstanceTask
from compress.tasks.augmentation import AERIAL, GREY, Augmentation
from compress.tasks.instances import clip_polygon, cut_polygons, joined, rings
from compress.tasks.mean_ap import Detections
from compress.tasks.obb import RotatedDetections
from compress.tasks.pose import KeypointDetections
from compress.tasks.segment import MaskDetections, encoded
from tests.tasks.shapes import SQUARE, labelled, pose

TASKS: list[InstanceTask] = [SEGMENT, pose(), OBB]


def test_objects_are_taken_and_joined() -> None:
    objects = Instances.of([[0, 0, 0, 9, 9], [1, 0, 0, 5, 5]], [SQUARE, SQUARE[:3]])
    assert [len(shape) for shape in objects.shapes()] == [4, 3] and len(objects) == 2
    assert objects.take([1]).counts.tolist() == [3]
    assert joined([objects, objects.take([1])]).counts.tolist() == [4, 3, 3]
    assert Instances.of([], []).shapes() == [] and Instances.of([], []).points.shape == (0, 2)
    assert objects.tobytes() != objects.take([1, 0]).tobytes()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_labels_become_pixels_of_the_letterboxed_input(task: InstanceTask) -> None:
    """A wide image of 200 x 100 fills 64 x 32 pixels in the middle of a square of 64."""
    label = labelled(task, [0.25, 0.25, 0.75, 0.75])
    target = task.target(label, (200, 100), 64)
    assert target.boxes.tolist() == [[1, 16, 24, 48, 40]]
    assert target.points[:, :2].min(axis=0).tolist() == [16, 24] and target.points[:, :2].max(axis=0).tolist() == [
        48,
        40,
    ]
    assert task.classes_in(label) == {1} and task.label_problem(label, 2) is None


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_what_is_wrong_with_a_label_is_described(task: InstanceTask) -> None:
    label = labelled(task, [0.25, 0.25, 0.75, 0.75])
    assert "expected compress.tasks.Instances" in str(task.label_problem(label.boxes, 2))
    assert "from 0 to 0" in str(task.label_problem(label, 1))
    assert "in [0, 1]" in str(task.label_problem(replace(label, points=label.points * 9), 2))
    assert "do not belong together" in str(task.label_problem(replace(label, points=label.points[:-1]), 2))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_shapes_follow_the_pixels(task: InstanceTask) -> None:
    """A bright rectangle lies where the augmented label says, in every batch."""
    image = np.full((64, 64, 3), GREY, np.uint8)
    image[16:40, 24:52] = 255
    target = Instances.of([[1, 24, 16, 52, 40]], labelled(task, [24, 16, 52, 40]).shapes(), task.columns)
    policy = replace(AERIAL, translate=0.3, brightness=0, colour=0, gamma=0)
    for seed in range(20):
        batch = task.collate([image], [target], policy, np.random.default_rng(seed))
        bright = (batch["img"][0, 0] > 0.7).numpy()
        (row,) = batch["bboxes"].numpy()
        x, y = (row[:2] * 64).astype(int).tolist()
        assert bright[y, x] and bright.mean() == pytest.approx(row[2] * row[3], abs=0.02)
        if task is SEGMENT:
            assert batch["masks"].numpy().mean() == pytest.approx(bright.mean(), abs=0.05)
        if task.columns == 3:
            x, y = (batch["keypoints"][0, :, :2].numpy() * 64).T
            low, high = row[:2] - row[2:] / 2, row[:2] + row[2:] / 2
            visible = batch["keypoints"][0, :, 2].numpy() > 0
            assert (x[visible] / 64 >= low[0] - 1e-4).all() and (y[visible] / 64 <= high[1] + 1e-4).all()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_mosaics_show_the_objects_of_several_images(task: InstanceTask) -> None:
    image = np.full((64, 64, 3), GREY, np.uint8)
    image[16:40, 24:52] = 255
    target = Instances.of([[1, 24, 16, 52, 40]], labelled(task, [24, 16, 52, 40]).shapes(), task.columns)
    counts = set()
    for seed in range(10):
        batch = task.collate(
            [image], [target], Augmentation(mosaic=1, brightness=0, colour=0, gamma=0), np.random.default_rng(seed)
        )
        counts.add(len(batch["bboxes"]))
        for x, y in (batch["bboxes"][:, :2] * 64).int().tolist():
            assert batch["img"][0, 0, y, x] > 0.7
    assert max(counts) > 1


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_batch_is_repeatable_and_may_be_empty(task: InstanceTask) -> None:
    images = [np.full((32, 32, 3), 9, np.uint8)] * 2
    target = task.target(labelled(task, [0.2, 0.2, 0.8, 0.6]), (32, 32), 32)
    first, again = (task.collate(images, [target, target], AERIAL, np.random.default_rng(7)) for _ in range(2))
    assert all((first[name] == again[name]).all() for name in first)
    empty = task.collate(images, [target.take([]), target.take([])], Augmentation(), np.random.default_rng(0))
    assert len(empty["cls"]) == len(empty["bboxes"]) == len(empty["batch_idx"]) == 0


def test_polygons_are_clipped_to_a_window() -> None:
    inside = clip_polygon(np.array([[-4, 2], [4, 2], [4, 6], [-4, 6]], np.float32), (0, 0, 10, 10))
    assert {tuple(point) for point in inside.tolist()} == {(0, 2), (4, 2), (4, 6), (0, 6)}
    assert len(clip_polygon(np.array([[-4, 2], [-1, 2], [-1, 6]], np.float32), (0, 0, 10, 10))) == 0
    gap = np.full((1, 2), np.nan, np.float32)
    two = np.concatenate([SQUARE, gap, SQUARE + 20]).astype(np.float32)
    assert [len(ring) for ring in rings(two)] == [4, 4]
    assert len(rings(clip_polygon(two, (0, 0, 15, 15)))) == 1


def test_a_cut_polygon_gets_the_box_of_what_remains() -> None:
    """The tip of a triangle is outside: its box shrinks by more than the window cuts off."""
    triangle = np.array([[-5, 5], [10, 0], [10, 10]], np.float32)
    cut = cut_polygons(Instances.of([[0, -5, 0, 10, 10]], [triangle]), (0, 0, 20, 20))
    assert cut.boxes.tolist() == [[0, 0, 0, 10, 10]]
    away = cut_polygons(Instances.of([[0, -50, 0, 10, 10]], [triangle - (40, 0)]), (0, 0, 20, 20))
    assert len(away) == 0


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_rows_of_other_tasks_are_refused(task: InstanceTask) -> None:
    with pytest.raises(ValueError, match="detect|boxes"):
        task.row([0.5, 0.5, 0.1, 0.1])


def test_only_pose_has_keypoints() -> None:
    assert [task.suffix for task in (SEGMENT, POSE, OBB)] == ["-seg", "-pose", "-obb"]


def test_predictions_replace_labels() -> None:
    """A model agrees with itself entirely, and its answers make training batches."""
    square = np.kron(np.eye(2, dtype=np.uint8), np.ones((8, 8), np.uint8))[None]
    box, score, cls = np.array([[4, 4, 40, 40]], np.float32), np.array([0.9], np.float32), np.array([1])
    turned = np.array([[22, 22, 30, 20, 0.4]], np.float32)
    points = np.array([[[4, 4], [40, 4], [40, 40], [4, 40]]], np.float32)
    cases: list[tuple[InstanceTask, Detections]] = [
        (SEGMENT, MaskDetections(box, score, cls, encoded(square))),
        (pose(), KeypointDetections(box, score, cls, points)),
        (OBB, RotatedDetections(box, score, cls, turned)),
    ]
    for task, detections in cases:
        [target], [other] = (task.as_targets([detections], confidence) for confidence in (0.5, 0.95))
        assert len(target) == 1 and len(other) == 0
        assert task.metric.evaluate([detections], [target], ("a", "b")).value == pytest.approx(1)
        batch = task.collate([np.zeros((64, 64, 3), np.uint8)], [target], Augmentation(), np.random.default_rng(0))
        assert batch["cls"].tolist() == [[1]] and batch["img"].shape == (1, 3, 64, 64)
        nothing = detections.take(np.array([], int))
        assert task.agreements([detections] * 2, [detections, nothing], 0.5) == [1, 0]
        assert task.agreements([nothing], [detections], 0.95) == [1], "neither predicts anything at this score"


def test_a_mask_without_pixels_is_replaced_by_its_box() -> None:
    empty = MaskDetections(
        np.array([[4, 4, 40, 20]], np.float32), np.ones(1), np.zeros(1, np.int64), encoded(np.zeros((1, 16, 16)))
    )
    assert SEGMENT.as_targets([empty], 0.5)[0].points.tolist() == [[4, 4], [40, 4], [40, 20], [4, 20]]
