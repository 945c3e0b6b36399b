from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("ultralytics")

from compress import checkpoint
from compress.capabilities import Teacher
from compress.config import ModelConfig, PruneConfig
from compress.errors import UserError
from compress.models import build, from_constructor
from compress.models.ultralytics_classify import UltralyticsClassifier
from compress.pruning.solver import prune_to_ratio
from compress.tasks import CLASSIFY, DETECT
from tests.models.toy import enliven

CLASSES = ("a", "b", "c")


def make(name: str = "yolo11n-cls") -> UltralyticsClassifier:
    torch.manual_seed(0)
    model = build(ModelConfig(name=name, imgsz=32), CLASSES, CLASSIFY)
    assert isinstance(model, UltralyticsClassifier)
    return model.with_net(enliven(model.net, model.example_input()))


@pytest.mark.parametrize("name", ["yolov8n-cls", "yolo26n-cls"])
def test_pruned_classifier_learns_deploys_and_comes_back_from_disk(name: str, tmp_path: Path) -> None:
    model = make(name)
    net, protected = model.prunable()
    x = model.example_input(2)
    with torch.no_grad():
        assert torch.allclose(net(x)[1], model.net.eval()(x)[1], atol=1e-4)
    small = model.with_net(prune_to_ratio(net, x[:1], protected, PruneConfig(), 0.4).net)
    assert small.net.model[-1].linear.out_features == 3
    sample = {"img": x, "cls": torch.tensor([0, 2])}
    small.loss(small.net.train(), sample).backward()
    assert all(p.grad is not None for p in small.net.parameters())
    checkpoint.save(small, tmp_path)
    again = checkpoint.load(tmp_path, from_constructor)
    assert isinstance(again, UltralyticsClassifier)
    out = again.deployed()(x)
    assert again.task is CLASSIFY and torch.equal(out, small.deployed()(x))
    with torch.no_grad():
        assert torch.allclose(out, small.net.eval()(x)[0], atol=1e-5)
    assert np.allclose(again.decode(out.numpy()).sum(1), 1)
    assert again.quantization_exclusions().keys() <= dict(again.deployed().named_modules()).keys()
    assert again.metadata()["task"] == "classify"


def test_the_loss_is_the_same_in_both_modes_and_a_teacher_adds_to_it() -> None:
    model = make()
    for module in model.net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    sample = {"img": model.example_input(2), "cls": torch.tensor([0, 2])}
    net = model.net.eval()
    evaluating = model.loss(net, sample)
    net.model[-1].training = True
    assert torch.isclose(model.loss(net, sample), evaluating)
    assert model.loss(net, sample, Teacher(copy.deepcopy(net).eval(), weight=0.5)).sum() > evaluating


def test_a_trained_pt_brings_its_classes(tmp_path: Path) -> None:
    torch.save({"model": copy.deepcopy(make().net).half()}, tmp_path / "best-cls.pt")
    loaded = build(ModelConfig(path=str(tmp_path / "best-cls.pt"), imgsz=32), CLASSES, CLASSIFY)
    assert loaded.classes == CLASSES and isinstance(loaded, UltralyticsClassifier)


def test_a_classifier_is_no_detector() -> None:
    with pytest.raises(UserError, match="the data is for detect, the model for classify"):
        build(ModelConfig(name="yolo11n-cls", imgsz=32), CLASSES, DETECT)
