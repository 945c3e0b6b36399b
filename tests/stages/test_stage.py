from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from compress.config import Config
from compress.product import Product
from compress.stages import STAGES, Context
from compress.stages.stage import Stage
from tests.fakes import small_model
from tests.stages.conftest import data


def nothing(product: Product, context: Context) -> Product:
    return product


def test_a_stage_of_name_and_work_alone_accepts_everything_and_needs_no_images() -> None:
    stage = Stage("mine", nothing)
    stage.check_config(Config())
    stage.check(Product(small_model()), Config(), data())
    assert tuple(stage.images(Config())) == ()
    assert not stage.makes_baseline and not stage.makes_files


def test_stages_are_in_the_order_of_the_table_and_named_after_their_modules() -> None:
    assert list(STAGES) == ["train", "prune", "reconstruct", "finetune", "quantize", "export"]
    assert all(stage.run.__module__ == f"compress.stages.{name}" for name, stage in STAGES.items())
    assert [name for name, stage in STAGES.items() if stage.makes_baseline] == ["train"]
    assert [name for name, stage in STAGES.items() if stage.makes_files] == ["quantize", "export"]


def test_neither_stages_nor_products_change() -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(STAGES["prune"], "name", "other")  # noqa: B010
    with pytest.raises(FrozenInstanceError):
        setattr(Product(small_model()), "cached", True)  # noqa: B010
    assert replace(STAGES["prune"], name="other").run is STAGES["prune"].run


def test_images_are_asked_for_by_split() -> None:
    config = Config()
    assert {name: tuple(stage.images(config)) for name, stage in STAGES.items()} == {
        "train": ("train",), "prune": (), "reconstruct": ("train",), "finetune": ("train",),
        "quantize": ("calibration",), "export": ("validation",),
    }  # fmt: skip
    config.prune.importance = "taylor"
    assert tuple(STAGES["prune"].images(config)) == ("train",)
