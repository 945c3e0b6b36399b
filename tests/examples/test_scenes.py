from __future__ import annotations

from functools import partial
from pathlib import Path

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
