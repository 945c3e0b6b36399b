from __future__ import annotations

import pytest

from compress.config import ModelConfig, compose
from compress.errors import UserError
from tests.config.refusals import refusal


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prune.ratio", 1.0), ("prune.ratio", -0.1), ("prune.ratio", 30.0), ("prune.round_to", 0),
        ("prune.max_ratio", 7.0), ("reconstruct.images", 1),
        ("reconstruct.max_growth", 0.5), ("finetune.images", 0), ("finetune.batch", -1), ("train.images", -1),
        ("finetune.learning_rate", 0.0), ("finetune.learning_rate", float("inf")), ("finetune.warmup", 2.0),
        ("train.ema", 1.0), ("data.calibration_images", 0), ("data.workers", -1), ("data.workers", 1000),
        ("model.imgsz", -256), ("model.channels", -1), ("threads", 0),
        ("export.opset", 22), ("budget.max_accuracy_drop", 1.0), ("quantize.max_accuracy_drop", 2.0),
        ("finetune.distillation", -1.0),
    ],
)  # fmt: skip
def test_out_of_range(key: str, value: float) -> None:
    error = refusal("recipe=digits", f"{key}={value}")
    assert (error.key, error.value) == (key, value)
    assert str(error).startswith(f"{key}={value}: ")


@pytest.mark.parametrize("value", ["[]", "[1,-1]", "[1,x]", "[0,1]", "even", "0.5", "[1,inf]", "{a:1}"])
@pytest.mark.parametrize("stage", ["train", "finetune"])
def test_class_weights_are_balanced_or_a_list_of_positive_numbers(stage: str, value: str) -> None:
    assert refusal("recipe=digits", f"{stage}.class_weights={value}").key == f"{stage}.class_weights"


def test_class_weights_compose() -> None:
    config = compose(["recipe=digits", "train.class_weights=balanced", "finetune.class_weights=[1,0.5]"])
    assert (config.train.class_weights, config.finetune.class_weights) == ("balanced", [1, 0.5])


@pytest.mark.parametrize("key", ["prune.ratio", "finetune.learning_rate"])
def test_not_a_number(key: str) -> None:
    assert refusal("recipe=digits", f"{key}=nan").key == key


@pytest.mark.parametrize(
    ("choice", "key"),
    [
        ("model=timm", "model.name"), ("model=module", "model.target"), ("model=checkpoint", "model.path"),
        ("model=ultralytics", "model.path"), ("data=yolo", "data.path"), ("data=image_folder", "data.path"),
    ],
)  # fmt: skip
def test_a_missing_value_is_named(choice: str, key: str) -> None:
    assert refusal("recipe=profile", choice).key == key


def test_channels_are_limited_to_what_opencv_can_resize() -> None:
    assert ModelConfig(channels=128).channels == 128
    for channels in (-1, 129):
        with pytest.raises(UserError, match=rf"model\.channels={channels}: .*another number up to 128"):
            ModelConfig(channels=channels)
