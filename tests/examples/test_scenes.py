from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from compress.config import DataConfig
from compress.data import load
from compress.examples import field_scenes


def test_field_scenes_load_as_any_yolo_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"train": 4, "validation": 3, "validation_large": 5}
    monkeypatch.setattr(field_scenes, "prepare", partial(field_scenes.prepare, counts=counts))
    config = DataConfig(root=str(tmp_path), calibration_images=1)
    small = load(config, 96, 3, 0)
    assert small.classes == field_scenes.CLASSES and len(small.validation) == 3 and not small.extra
    config.large_validation = True
    assert len(load(config, 96, 3, 0).validation) == 5


@pytest.mark.parametrize(("task", "classes"), [("segment", 5), ("pose", 3), ("obb", 5)])
def test_other_labels_of_the_same_images(
    task: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"train": 6, "validation": 3}
    monkeypatch.setattr(field_scenes, "prepare", partial(field_scenes.prepare, counts=counts))
    boxes = load(DataConfig(root=str(tmp_path), calibration_images=2), 128, 3, 0)
    data = load(DataConfig(root=str(tmp_path), calibration_images=2, task=task), 128, 3, 0)
    assert (data.task.name, len(data.classes), len(data.train)) == (task, classes, len(boxes.train))
    for index in range(3):
        assert (data.validation.image(index) == boxes.validation.image(index)).all()
        expected = boxes.validation.target(index)
        expected = expected[expected[:, 0] < classes]
        found = data.validation.target(index)
        assert found.boxes[:, 0].tolist() == expected[:, 0].tolist()
        if task != "obb":
            assert np.abs(found.boxes - expected).max(initial=0) < 8  # outlines: of the largest part


def test_classes_of_pixels_are_inside_the_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_scenes, "prepare", partial(field_scenes.prepare, counts={"train": 6, "validation": 3}))
    boxes = load(DataConfig(root=str(tmp_path), calibration_images=2), 128, 3, 0)
    data = load(DataConfig(root=str(tmp_path), calibration_images=2, task="semantic"), 128, 3, 0)
    assert data.task.name == "semantic" and data.classes == ("background", *field_scenes.CLASSES)
    for index in range(3):
        mask, inside = data.validation.target(index), np.zeros((128, 128), bool)
        for cls, x1, y1, x2, y2 in boxes.validation.target(index).tolist():
            window = mask[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
            assert (window == cls + 1).mean() > 0.05  # the rest is background, or an object before it
            inside[int(y1) : int(y2) + 2, int(x1) : int(x2) + 2] = True
        assert not mask[~inside].any() and mask.any()
