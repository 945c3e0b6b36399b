from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compress import checkpoint, models
from compress.config import ModelConfig, compose
from compress.errors import UserError
from compress.models import activation
from compress.stages import finetune


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


def test_null_changes_nothing() -> None:
    changed = net()
    assert activation.swap(changed, None) == 0 and activation.of(changed) is None
    assert nn.SiLU in [type(each) for each in changed.modules()]


@pytest.mark.parametrize("family", ["ultralytics", "module"])
def test_a_checkpoint_keeps_what_was_replaced(family: str, tmp_path) -> None:
    if family == "ultralytics":
        pytest.importorskip("ultralytics")
        model = models.build(ModelConfig(name="yolov8n", imgsz=64), ("a", "b"))
    else:
        model = models.build(compose(["recipe=digits"]).model)
    swapped = model.with_net(copy.deepcopy(model.net))
    assert activation.swap(swapped.net, "relu6") > 0
    checkpoint.save(swapped, tmp_path)
    again = checkpoint.load(tmp_path, models.from_constructor)
    assert activation.of(again.net) == "relu6"
    image = model.example_input()
    with torch.no_grad():
        assert torch.equal(again.deployed()(image), swapped.deployed()(image))
    assert nn.ReLU6 in [type(each) for each in again.net.modules()]
    assert nn.ReLU6 not in [type(each) for each in model.net.modules()]


def test_a_network_without_activations_is_refused() -> None:
    config = compose(["recipe=digits", "finetune.activation=relu"])
    bare = models.build(config.model).with_net(nn.Sequential(nn.Conv2d(1, 2, 1)))
    with pytest.raises(UserError, match="finetune.activation"):
        finetune.check(bare, config, [None] * 1000, "finetune")  # type: ignore[arg-type]
