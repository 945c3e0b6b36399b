from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from compress.examples.field_scenes.image_file import POSE_CLASSES, write_image, write_shapes
from compress.examples.field_scenes.scene import render


def test_image_and_labels_are_those_of_the_scene(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
    image, rows = render("train", 1, 128)
    assert len(rows)  # otherwise the comparison is of nothing
    assert write_image(1, str(tmp_path), "train", 128) == len(rows)
    stored = cv2.imread(str(tmp_path / "images/train/000001.jpg"))
    assert stored is not None
    assert np.abs(stored[..., ::-1].astype(int) - image).mean() < 10  # JPEG
    labels = np.loadtxt(tmp_path / "labels/train/000001.txt", ndmin=2)
    corners = rows[:, 1:].reshape(-1, 2, 2)
    np.testing.assert_array_equal(labels[:, 0], rows[:, 0])
    np.testing.assert_allclose(labels[:, 1:3] * 128, corners.mean(axis=1), atol=1e-3)
    np.testing.assert_allclose(labels[:, 3:] * 128, corners[:, 1] - corners[:, 0], atol=1e-3)


def test_a_folder_that_is_absent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot write"):
        write_image(0, str(tmp_path / "absent"), "train", 32)


def test_labels_of_other_tasks_describe_the_same_objects(tmp_path: Path) -> None:
    for task in ("segment", "pose", "obb"):
        (tmp_path / f"labels_{task}/train").mkdir(parents=True)
    _, rows = render("train", 1, 128)
    assert write_shapes(1, str(tmp_path), "train", 128) == len(rows)
    files = {task: tmp_path / f"labels_{task}/train/000001.txt" for task in ("segment", "pose", "obb")}
    labels = {
        task: [list(map(float, line.split())) for line in path.read_text().splitlines()] for task, path in files.items()
    }
    for task in ("segment", "obb"):
        assert [label[0] for label in labels[task]] == rows[:, 0].tolist()
    assert all(len(label) == 9 for label in labels["obb"]) and all(len(label) % 2 for label in labels["segment"])
    with_front = rows[rows[:, 0] < POSE_CLASSES]
    assert [label[0] for label in labels["pose"]] == with_front[:, 0].tolist()
    for label, row in zip(labels["pose"], with_front):
        np.testing.assert_allclose(np.array(label[1:3]) * 128, (row[1:3] + row[3:]) / 2, atol=2e-3)
        assert len(label) == 5 + 4 * 3 and set(label[7::3]) <= {0, 2}
    assert all(0 <= value <= 1 for task in ("segment", "obb") for label in labels[task] for value in label[1:])
