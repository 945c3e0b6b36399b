from __future__ import annotations

import copy
import errno
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.cache import Cache
from compress.capabilities import TorchModel, require
from compress.config import Family, ModelConfig
from compress.errors import TargetFailed
from compress.models import build
from compress.product import Product
from compress.stages import Context
from tests.fakes import small_model
from tests.stages.conftest import config, context, data


def test_a_context_does_not_change(tmp_path: Path) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(context(config(), data(), tmp_path), "folder", tmp_path)  # noqa: B010


def test_a_target_that_fails_leaves_the_others_and_is_not_tried_again(tmp_path: Path) -> None:
    settings = config()
    settings.targets = ["first", "second", "third"]
    worked: list[str] = []

    def work(target: str) -> str:
        worked.append(target)
        if target == "second":
            raise TargetFailed("unknown operator")
        return target.upper()

    product = Product(small_model(), failures={"third": "failed before"})
    results, failures = context(settings, data(), tmp_path).for_each_target(product, work)
    assert (worked, results) == (["first", "second"], ["FIRST"])
    assert failures == {"second": "unknown operator", "third": "failed before"}
    assert product.failures == {"third": "failed before"}


def test_a_full_disk_is_not_the_targets_failure(tmp_path: Path) -> None:
    settings = config()
    settings.targets = ["first"]

    def work(target: str) -> None:
        raise TargetFailed("not written") from OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(TargetFailed):
        context(settings, data(), tmp_path).for_each_target(Product(small_model()), work)


@pytest.fixture
def model() -> TorchModel:
    return require(
        build(ModelConfig(family=Family.module, target="tests.models.toy.Net", imgsz=32)), TorchModel, "", ""
    )


def test_the_same_inputs_are_computed_once_and_others_again(model: TorchModel, tmp_path: Path) -> None:
    services = replace(context(config(), data(), tmp_path), cache=Cache(tmp_path / "cache", True))
    made: list[float] = []

    def fetch(services: Context, seed: float = 1.0, **parts: Any) -> tuple[torch.Tensor, bool]:
        def make(folder: Path) -> TorchModel:
            made.append(seed)
            (folder / "record.json").write_text(f"{seed}")
            net = copy.deepcopy(model.net)
            torch.nn.init.constant_(net.get_parameter("head.bias"), seed)
            return model.with_net(net)

        result, cached = services.cached_model("step", model, parts, make, record="record.json")
        return result.net.get_parameter("head.bias"), cached

    first, cached = fetch(services, rate=0.1)
    assert not cached and (first == 1).all() and (tmp_path / "record.json").read_text() == "1.0"
    (tmp_path / "record.json").unlink()
    again, cached = fetch(services, 2.0, rate=0.1)
    assert cached and torch.equal(again, first) and (tmp_path / "record.json").read_text() == "1.0"
    assert not fetch(services, 3.0, rate=0.2)[1]
    seeded = replace(services, config=config())
    seeded.config.seed = 7
    assert not fetch(seeded, 4.0, rate=0.1)[1]
    assert not fetch(replace(services, data=replace(services.data, fingerprint="g")), 5.0, rate=0.1)[1]
    assert made == [1.0, 3.0, 4.0, 5.0]
