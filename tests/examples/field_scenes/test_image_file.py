from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from compress.examples.field_scenes.image_file import write_image
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
