from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from compress import checkpoint, models
from compress.capabilities import Checkpointable, Trainable, require
from compress.config import ModelConfig, compose
from compress.errors import UserError
from compress.finetuning import activated
from compress.models import activation
from tests.models.toy import layer


def net() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Hardswish()))
    return nn.Sequential(block, nn.Sigmoid())


def test_activations_are_replaced_and_gates_stay() -> None:
    changed = net()
    assert activation.of(changed) is None
    assert activation.swap(changed, "relu") == 2
    kinds = [type(each) for each in changed.modules()]
    assert kinds.count(nn.ReLU) == 2 and nn.Sigmoid in kinds and nn.SiLU not in kinds
    assert activation.of(copy.deepcopy(changed)) == "relu"


def test_shared_modules_gates_and_residuals_compute_what_they_should() -> None:
    shared = nn.SiLU()
    chain = nn.Sequential(nn.Conv2d(1, 1, 1), shared, nn.Conv2d(1, 1, 1), shared, nn.ReLU6())
    assert activation.swap(chain, "relu") == 2
    assert [type(each) for each in chain] == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.ReLU6]
    assert not chain[1].inplace, "what reads the input again must find it"
    quick = nn.Sequential(nn.SiLU(inplace=True))
    activation.swap(quick, "relu")
    assert quick[0].inplace


def test_weights_of_a_network_with_other_activations_bring_them_along(tmp_path: Path) -> None:
    config = compose(["recipe=digits"]).model
    model = require(models.build(config), Checkpointable, "model", "digits")
    layer(model.net, "stem", nn.Sequential)[2] = nn.SiLU()
    activation.swap(model.net, "relu6")
    checkpoint.save(model, tmp_path)
    config.weights = str(tmp_path)
    assert activation.of(require(models.build(config), Checkpointable, "model", "digits").net) == "relu6"


def test_null_changes_nothing() -> None:
    changed = net()
    assert activation.swap(changed, None) == 0 and activation.of(changed) is None
    assert nn.SiLU in [type(each) for each in changed.modules()]


@pytest.mark.parametrize("family", ["ultralytics", "module"])
def test_a_checkpoint_keeps_what_was_replaced(family: str, tmp_path: Path) -> None:
    if family == "ultralytics":
        pytest.importorskip("ultralytics")
        config, classes = ModelConfig(name="yolov8n", imgsz=64), ("a", "b")
    else:
        config, classes = compose(["recipe=digits"]).model, None
    model = require(models.build(config, classes), Checkpointable, "model", family)
    if family == "module":
        layer(model.net, "stem", nn.Sequential)[2] = nn.SiLU()
    swapped = model.with_net(copy.deepcopy(model.net))
    assert activation.swap(swapped.net, "relu6") > 0
    checkpoint.save(swapped, tmp_path)
    again = checkpoint.load(tmp_path, models.from_constructor)
    assert activation.of(again.net) == "relu6"
    image = model.example_input()
    with torch.no_grad():
        assert torch.equal(again.deployed()(image), swapped.deployed()(image))


def test_a_network_without_activations_is_refused() -> None:
    config = compose(["recipe=digits", "finetune.activation=relu"])
    model = models.build(models.resolve(config).model)
    assert isinstance(model, Trainable)
    bare = model.with_net(nn.Sequential(nn.Conv2d(1, 2, 1)))
    with pytest.raises(UserError, match="finetune.activation"):
        activated(bare, config.finetune, "finetune")
