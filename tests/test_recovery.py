from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.config import Activation, DataConfig, Family, FinetuneConfig, ModelConfig, PruneConfig
from compress.data import load
from compress.errors import UserError
from compress.models import build
from compress.product import Model
from compress.pruning.solver import prune_to_ratio
from compress.recovery import RATE, learning_rate, recover


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    args = {"channels": 1}
    config = ModelConfig(
        family=Family.module, target="compress.models.small_cnn.SmallCNN", args=args, channels=1, imgsz=16
    )
    return build(config, tuple("0123456789"))


def pruned(model: Model) -> Model:
    net, protected = model.prunable()
    config = PruneConfig(round_to=8, allocation="uniform")
    return model.with_net(prune_to_ratio(net, model.example_input(), protected, config, 0.5).net)


def test_the_rate_follows_the_flops_taken(model: Model) -> None:
    def flops(model: Model) -> int:
        import compress

        return compress.get_flops(model, model.imgsz)

    small = pruned(model)
    assert learning_rate(model, None) == learning_rate(model, model) == RATE
    assert learning_rate(small, model) == pytest.approx(RATE * flops(model) / flops(small))
    assert learning_rate(small, model) > 2 * RATE


def test_training_wins_accuracy_and_leaves_no_state(model: Model, tmp_path: Path) -> None:
    data = load(DataConfig(name="digits"), 16, 1, 0)
    sample = torch.stack([torch.from_numpy(data.validation.image(i)) for i in range(100)]).permute(0, 3, 1, 2) / 255
    labels = torch.tensor([data.validation.target(i) for i in range(100)])

    def right(model: Model) -> float:
        with torch.no_grad():
            return float((model.net.eval()(sample).argmax(1) == labels).float().mean())

    before = right(model)
    config = FinetuneConfig(images=3200, batch=32, augment=False)
    tuned = recover(model, None, data.train, config, seed=0, stage="finetune", folder=tmp_path)
    assert right(tuned) > max(0.6, before)
    assert list(tmp_path.iterdir()) == []


def test_a_rate_that_diverges_is_the_users_error(model: Model, tmp_path: Path) -> None:
    data = load(DataConfig(name="digits"), 16, 1, 0)
    config = FinetuneConfig(images=3200, batch=32, learning_rate=1e30, warmup=0.0, bfloat16=False)
    with pytest.raises(UserError, match="lower") as caught:
        recover(model, None, data.train, config, seed=0, stage="finetune", folder=tmp_path)
    assert caught.value.key == "finetune.learning_rate"
    assert list(tmp_path.iterdir()) == []


def test_other_activations_are_tuned_and_model_and_teacher_keep_theirs(model: Model, tmp_path: Path) -> None:
    data = load(DataConfig(name="digits"), 16, 1, 0)
    for net in (model.net, teacher := copy.deepcopy(model.net)):
        net.stem[2] = nn.SiLU()
    config = FinetuneConfig(images=64, batch=32, augment=False, activation=Activation.relu6, distillation=1.0)
    tuned = recover(model, model.with_net(teacher), data.train, config, seed=0, stage="finetune", folder=tmp_path)
    assert isinstance(tuned.net.stem[2], nn.ReLU6) and tuned.constructor()["activation"] == "relu6"
    assert isinstance(model.net.stem[2], nn.SiLU) and isinstance(teacher.stem[2], nn.SiLU)
