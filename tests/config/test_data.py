from __future__ import annotations

from typing import Any

import pytest

from compress.config import DataConfig, MetricConfig
from compress.errors import UserError


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"name": "coco", "annotations": {"valid": "a.json"}},
            "data.annotations.valid=a.json: set a file name for train,",
        ),
        ({"name": "coco", "annotations": {"val": 5}}, "data.annotations.val=5"),
        ({"name": "yolo", "annotations": {"val": "a.json"}}, "data.annotations=['a.json']: only data=coco"),
        ({"name": "coco", "classes": ["a"]}, "data.classes=['a']: only data=voc"),
        ({"name": "voc", "task": "segment"}, "data.task=segment: only data=coco, field_scenes, yolo"),
        ({"name": "images"}, "data.labels=True: data=images has no labels"),
        ({"confidence": 1.0}, "data.confidence=1.0: set a score in (0, 1)"),
        ({"validation_fraction": 0.6}, "data.validation_fraction=0.6"),
        ({"workers": 129}, "data.workers=129"),
        ({"name": "yolo", "task": "seg"}, "data.task=seg: set one of detect, segment, pose, obb"),
    ],
)
def test_keys_of_another_data_set_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        DataConfig(**values)
    assert str(caught.value).startswith(says)


def test_one_metric_is_selected() -> None:
    with pytest.raises(UserError, match=r"metric\.target=mine\.metric: metric\.name=top5 is set too"):
        MetricConfig(name="top5", target="mine.metric")
