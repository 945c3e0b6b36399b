"""Whatever computes on an accelerator computes on the second device of tests/second_device.py, with the results of the
CPU. A tensor that is made on the CPU by mistake is an error there, as it would be on a GPU. Run by test_accelerator.py
in a process of its own: the device must be registered before the first gradient is computed."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress import data, models
from compress.capabilities import Trainable
from compress.config import Config, FinetuneConfig, Optimizer, compose
from compress.data import DataSet, batches, images
from compress.finetuning import teach, tune
from compress.measurement import accuracy
from compress.pruning.gradients import accumulate_gradients
from compress.quantization.sensitivity import ranked
from compress.training.placement import CPU, Placement
from compress.training.settings import TrainingSettings
from tests.second_device import NAME, install

RECIPES = {
    "digits": ["recipe=digits", "finetune.batch=8"],
    "yolo": ["recipe=drone_nano", "model.imgsz=64", "finetune.batch=4"],
}


@pytest.fixture(scope="module")
def second() -> torch.device:
    return install()


@pytest.fixture(scope="module", params=sorted(RECIPES))
def case(request: pytest.FixtureRequest) -> tuple[Config, Trainable, DataSet]:
    config = models.resolve(compose([*RECIPES[request.param], "data.validation_images=8"]))
    dataset = data.load(config.data, *config.model.input, config.seed)
    model = models.build(config.model, dataset.classes, dataset.task)
    assert isinstance(model, Trainable)
    return config, model, dataset


def test_the_second_device_refuses_what_an_accelerator_refuses(second: torch.device) -> None:
    there = torch.ones(2, device=second)
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(2)
    with pytest.raises(RuntimeError):
        there.numpy()
    assert (there + 1).cpu().tolist() == [2, 2]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_finetuning(
    case: tuple[Config, Trainable, DataSet], accumulate: int, second: torch.device, tmp_path: Path
) -> None:
    config, model, dataset = case
    plan = FinetuneConfig(  # with AdamW, steps of parameters without gradient would have the sign of rounding errors
        images=3 * config.finetune.batch, batch=config.finetune.batch, accumulate=accumulate, optimizer=Optimizer.sgd,
        learning_rate=0.01, warmup=0.0,
    )  # fmt: skip
    results = []
    for placement in (Placement(), Placement(NAME)):
        settings = TrainingSettings(threads=1, placement=placement)
        tuned = tune(
            model.with_net(copy.deepcopy(model.net)), model, dataset.train, replace(plan, distillation=1.0),
            seed=0, stage="finetune", folder=tmp_path, settings=settings,
        )  # fmt: skip
        assert {value.device for value in tuned.net.state_dict().values()} == {CPU}
        results.append(tuned.net)
    start, here, there = (network.state_dict() for network in (model.net, *results))
    for name, value in here.items():
        change = float((value - start[name]).abs().max())
        # The optimizer of the second device is not the fused one, and rounding errors grow from step to step.
        assert torch.allclose(value, there[name], rtol=1e-3, atol=0.05 * change), name


def test_gradients(case: tuple[Config, Trainable, DataSet], second: torch.device) -> None:
    _, model, dataset = case
    teacher = teach(model, 1.0)
    gradients = []
    for device in (CPU, second):
        net = copy.deepcopy(model.net)
        on_device = replace(teacher, net=teacher.net.to(device))
        stream = batches(dataset.train, batch=4, seed=0, epoch=0, augment=False)
        accumulate_gradients(net, functools.partial(model.loss, teacher=on_device), [next(stream)], device=device)
        stream.close()
        gradients.append([parameter.grad for parameter in net.parameters()])
    assert all(grad is not None and grad.device == CPU for grad in gradients[1])
    for here, there in zip(*gradients, strict=True):
        assert torch.allclose(here, there, rtol=1e-3, atol=1e-3 * float(here.abs().max()) + 1e-6)


def test_predictions_and_sensitivity(
    case: tuple[Config, Trainable, DataSet], second: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # not supported for devices made in Python
    _, model, dataset = case
    given = next(images(dataset.validation, batch=4))
    here, there = (accuracy.predictor(model.deployed(), device)(given) for device in (CPU, second))
    assert isinstance(there, np.ndarray)
    assert np.allclose(here, there, rtol=1e-4, atol=1e-4)
    samples = list(images(dataset.validation.first(2)))
    expected, obtained = (dict(ranked(model, samples, device)) for device in (CPU, second))
    assert obtained == pytest.approx(expected, rel=1e-2)


def test_modules_are_moved_back(case: tuple[Config, Trainable, DataSet]) -> None:
    _, model, _ = case
    assert isinstance(model.net, nn.Module)
    assert {value.device for value in model.net.state_dict().values()} == {CPU}
