from __future__ import annotations

from typing import Any

import pytest

from compress.capabilities import Model
from compress.config import Config, DataConfig, Family, FinetuneConfig, ModelConfig
from compress.errors import UserError
from compress.models import build
from compress.product import Product
from compress.stages import train
from tests.fakes import small_model
from tests.stages.conftest import data


@pytest.fixture
def model() -> Model:
    return build(ModelConfig(family=Family.module, target="tests.models.toy.Net", args={"classes": 3}, imgsz=32))


def check(model: Model, **settings: Any) -> None:
    train.check(Product(model), Config(train=FinetuneConfig(**{"batch": 4, **settings})), data())


@pytest.mark.parametrize(("key", "value"), [("distillation", 0.5), ("teacher", "drone_nano")])
def test_there_is_no_teacher(model: Model, key: str, value: object) -> None:
    check(model, distillation=0.0)
    with pytest.raises(UserError, match="only finetune has a teacher") as caught:
        check(model, **{key: value})
    assert (caught.value.key, caught.value.value) == (f"train.{key}", value)


def test_batches_are_not_larger_than_the_training_split(model: Model) -> None:
    with pytest.raises(UserError, match=r"train\.batch=5: set at most 4"):
        check(model, batch=5)


def test_a_model_without_a_loss_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be trained here") as caught:
        check(small_model())
    assert caught.value.value == "train"


def test_training_needs_labels() -> None:
    train.STAGE.check_config(Config())
    with pytest.raises(UserError, match="stages=train: training needs labels, and data.labels is false"):
        train.STAGE.check_config(Config(data=DataConfig(labels=False)))
