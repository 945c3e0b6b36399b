from __future__ import annotations

from typing import Any

import pytest

from compress.capabilities import Model
from compress.config import Config, DataConfig, Family, FinetuneConfig, ModelConfig
from compress.errors import UserError
from compress.models import build
from compress.product import Product
from compress.stages import finetune
from tests.stages.conftest import data


@pytest.fixture
def model() -> Model:
    return build(ModelConfig(family=Family.module, target="tests.models.toy.Net", args={"classes": 3}, imgsz=32))


def check(model: Model, *stages: str, **settings: Any) -> None:
    config = Config(stages=list(stages), finetune=FinetuneConfig(**{"batch": 4, **settings}))
    finetune.check(Product(model), config, data())


def test_distillation_needs_something_to_learn_from(model: Model) -> None:
    """The model before pruning teaches, so there must be one: a stage prune, a checkpoint's reference or a teacher."""
    check(model, "finetune")
    check(model, "prune", "finetune", distillation=1.0)
    with pytest.raises(UserError, match="teacher") as caught:
        check(model, "finetune", distillation=1.0)
    assert caught.value.key.startswith("finetune.")


def test_the_keys_of_errors_are_those_of_this_stage(model: Model) -> None:
    with pytest.raises(UserError, match=r"finetune\.batch=5: set at most 4"):
        check(model, "finetune", batch=5)


def test_without_labels_distillation_is_all_there_is(model: Model) -> None:
    def checked(*stages: str, **settings: Any) -> None:
        tuning = FinetuneConfig(**{"batch": 4, **settings})
        config = Config(stages=list(stages), finetune=tuning, data=DataConfig(labels=False))
        finetune.STAGE.check_config(config)
        finetune.check(Product(model), config, data())

    checked("prune", "finetune")
    with pytest.raises(UserError, match="distillation is the only loss") as caught:
        checked("prune", "finetune", distillation=0.0)
    assert (caught.value.key, caught.value.value) == ("finetune.distillation", 0.0)
    with pytest.raises(UserError, match="without labels, finetune needs a teacher; this run does not prune") as caught:
        checked("finetune")
    assert caught.value.key == "data.labels"
