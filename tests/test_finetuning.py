from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from compress import finetuning
from compress.cache import Cache
from compress.capabilities import Model, TorchModel
from compress.config import (
    Activation,
    Config,
    DataConfig,
    Family,
    FinetuneConfig,
    ModelConfig,
    NumberFormat,
    PruneConfig,
    compose,
)
from compress.data import load
from compress.errors import UserError
from compress.finetuning import RATE, check_training, choose_settings, learning_rate, tune
from compress.models.plain_network import PlainNetwork
from compress.pruning.solver import prune_to_ratio
from compress.tasks import CLASS_WEIGHTS, DETECT, Batch, PlainNetworkTask
from compress.training.class_weights import normalised
from compress.training.placement import Placement
from compress.training.settings import TrainingSettings
from tests.models.toy import layer, plain


@pytest.fixture
def model() -> PlainNetwork:
    torch.manual_seed(0)
    args = {"channels": 1}
    config = ModelConfig(
        family=Family.module, target="compress.examples.small_cnn.SmallCNN", args=args, channels=1, imgsz=16
    )
    return plain(config, tuple("0123456789"))


def pruned(model: PlainNetwork) -> PlainNetwork:
    net, protected = model.prunable()
    config = PruneConfig(round_to=8, allocation="uniform")
    return model.with_net(prune_to_ratio(net, model.example_input(), protected, config, 0.5).net)


def test_the_loss_of_a_training_has_the_weights_of_the_classes(
    model: PlainNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = load(DataConfig(name="digits"), 16, 1, 0), list[Batch]()

    def loss(task: PlainNetworkTask, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        seen.append(batch)
        return outputs.sum()

    monkeypatch.setattr(type(model.task), "network_loss", loss)
    for weights in (None, "balanced", [1.0] * 9 + [2.0]):
        config = FinetuneConfig(images=32, batch=32, augment=False, class_weights=weights)
        tune(model, None, data.train, config, seed=0, stage="finetune", folder=tmp_path)
    assert CLASS_WEIGHTS not in seen[0]
    labels = [sample.label for sample in data.train.samples]
    assert seen[1][CLASS_WEIGHTS].tolist() == pytest.approx(normalised(None, labels, 10).tolist())
    assert float(seen[2][CLASS_WEIGHTS][9] / seen[2][CLASS_WEIGHTS][0]) == pytest.approx(2)


def test_class_weights_that_do_not_fit_are_refused(model: PlainNetwork) -> None:
    data = load(DataConfig(name="digits"), 16, 1, 0)
    with pytest.raises(UserError, match="set 10 numbers, one for each class") as caught:
        check_training(model, FinetuneConfig(class_weights=[1.0, 2.0]), data, "train")
    assert caught.value.key == "train.class_weights"
    check_training(model, FinetuneConfig(class_weights="balanced"), data, "train")
    no_classes = dataclasses.replace(data, train=dataclasses.replace(data.train, task=DETECT))
    with pytest.raises(UserError, match="has no weights for classes"):
        check_training(model, FinetuneConfig(class_weights="balanced"), no_classes, "train")


def test_the_rate_follows_the_flops_taken(model: PlainNetwork) -> None:
    def flops(model: Model) -> int:
        import compress

        return compress.get_flops(model, model.imgsz)

    small = pruned(model)
    assert learning_rate(model, None) == learning_rate(model, model) == RATE
    assert learning_rate(small, model) == pytest.approx(RATE * flops(model) / flops(small))
    assert learning_rate(small, model) > 2 * RATE


def test_training_wins_accuracy_and_leaves_only_its_curve(model: PlainNetwork, tmp_path: Path) -> None:
    data = load(DataConfig(name="digits"), 16, 1, 0)
    sample = torch.stack([torch.from_numpy(data.validation.image(i)) for i in range(100)]).permute(0, 3, 1, 2) / 255
    labels = torch.tensor([data.validation.target(i) for i in range(100)])

    def right(model: TorchModel) -> float:
        with torch.no_grad():
            return float((model.net.eval()(sample).argmax(1) == labels).float().mean())

    before = right(model)
    config = FinetuneConfig(images=3200, batch=32, augment=False)
    tuned = tune(model, None, data.train, config, seed=0, stage="finetune", folder=tmp_path)
    assert right(tuned) > max(0.6, before)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("format", ["fp32", "bf16"])
def test_a_rate_that_diverges_is_the_users_error(model: PlainNetwork, tmp_path: Path, format: str) -> None:
    data = load(DataConfig(name="digits"), 16, 1, 0)
    config = FinetuneConfig(images=3200, batch=32, learning_rate=1e30, warmup=0.0)
    settings = TrainingSettings(format)
    with pytest.raises(UserError, match="lower") as caught:
        tune(model, None, data.train, config, seed=0, stage="finetune", folder=tmp_path, settings=settings)
    assert caught.value.key == "finetune.learning_rate"
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_other_activations_are_tuned_and_model_and_teacher_keep_theirs(model: PlainNetwork, tmp_path: Path) -> None:
    data = load(DataConfig(name="digits"), 16, 1, 0)
    for net in (model.net, teacher := copy.deepcopy(model.net)):
        layer(net, "stem", nn.Sequential)[2] = nn.SiLU()
    config = FinetuneConfig(images=64, batch=32, augment=False, activation=Activation.relu6, distillation=1.0)
    tuned = tune(model, model.with_net(teacher), data.train, config, seed=0, stage="finetune", folder=tmp_path)
    assert layer(tuned.net, "stem.2", nn.ReLU6)
    assert isinstance(tuned, PlainNetwork) and tuned.constructor()["activation"] == "relu6"
    assert layer(model.net, "stem.2", nn.SiLU) and layer(teacher, "stem.2", nn.SiLU)


def test_preparing_changes_neither_network_nor_random_numbers_and_announces_long_trainings(
    model: PlainNetwork, caplog: pytest.LogCaptureFixture, cache: Cache
) -> None:
    data = load(DataConfig(name="digits"), 16, 1, 0)
    plan = FinetuneConfig(images=100_000_000, batch=32)
    config = Config(stages=["finetune"], finetune=plan, precision=NumberFormat.bf16, threads=1)
    before, random = {k: v.clone() for k, v in model.net.state_dict().items()}, torch.get_rng_state()
    settings = choose_settings(model, config, 0.0, data, Placement(), cache)
    assert settings is not None and settings.format == "bf16"
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert "to shorten it, set fewer finetune.images" in caplog.text


def test_fine_tuning_between_rounds_of_pruning_has_settings(model: PlainNetwork, cache: Cache) -> None:
    config = Config(stages=["prune"], prune=PruneConfig(importance="group_l2", rounds=2, round_images=64), threads=1)
    assert (
        choose_settings(model, config, 0.0, load(DataConfig(name="digits"), 16, 1, 0), Placement(), cache) is not None
    )


def test_nothing_is_prepared_or_said_where_nothing_is_trained(
    model: PlainNetwork, caplog: pytest.LogCaptureFixture, cache: Cache
) -> None:
    caplog.set_level("INFO")
    assert (
        choose_settings(
            model, Config(stages=["export"]), 0.0, load(DataConfig(name="digits"), 16, 1, 0), Placement(), cache
        )
        is None
    )
    assert caplog.text == ""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


class Interrupting:
    """A hook that sends Ctrl-C at one of a network's training steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, *_: object) -> None:
        self.step -= 1
        if self.step == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_training_interrupted_inside_an_epoch_resumes_with_workers_to_equal_weights(
    model: PlainNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its batches are made by two worker processes; those of the undisturbed training by a thread."""
    data = load(DataConfig(name="digits"), 16, 1, 0)
    split = data.train.first(40)  # 5 batches an epoch
    config = FinetuneConfig(images=8 * 14, batch=8)

    def trained(workers: int, hook: Interrupting | None = None) -> dict[str, torch.Tensor]:
        again = model.with_net(copy.deepcopy(model.net))
        handle = again.net.register_forward_pre_hook(hook) if hook else None
        try:
            own = dataclasses.replace(split, workers=workers)
            tuned = tune(again, None, own, config, seed=0, stage="finetune", folder=tmp_path)
        finally:
            if handle:
                handle.remove()
        return tuned.net.state_dict()

    with pytest.raises(KeyboardInterrupt):
        trained(2, Interrupting(8))
    assert multiprocessing.active_children() == [] and (tmp_path / "training.safetensors").exists()
    caplog.set_level("INFO")
    resumed = trained(2)
    assert "resuming at step 8 of 14" in caplog.text  # the 4th batch of an epoch
    undisturbed = trained(0)
    assert all(torch.equal(value, resumed[name]) for name, value in undisturbed.items())


def test_a_batch_that_does_not_fit_is_timed_in_halves(
    model: PlainNetwork, monkeypatch: pytest.MonkeyPatch, cache: Cache
) -> None:
    seen = []

    def limited(precision: NumberFormat, threads: int, images: int, *_: object) -> TrainingSettings:
        seen.append(images)
        if images > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return TrainingSettings()

    monkeypatch.setattr(finetuning, "choose", limited)
    config = Config(stages=["finetune"], finetune=FinetuneConfig(images=64, batch=32, accumulate=2), threads=1)
    choose_settings(model, config, 0.0, load(DataConfig(name="digits"), 16, 1, 0), Placement(), cache)
    assert seen == [16, 8, 4]


def test_settings_are_chosen_once(model: PlainNetwork, monkeypatch: pytest.MonkeyPatch, cache: Cache) -> None:
    """Timing again could choose others, and change the result of a command."""
    data, config = load(DataConfig(name="digits"), 16, 1, 0), Config(stages=["finetune"], threads=1)
    first = choose_settings(model, config, 0.0, data, Placement(), cache)
    monkeypatch.setattr(finetuning, "choose", lambda *_: pytest.fail("timed again"))
    assert choose_settings(model, config, 0.0, data, Placement(), cache) == first
    with pytest.raises(pytest.fail.Exception, match="timed again"):
        choose_settings(model, dataclasses.replace(config, threads=2), 0.0, data, Placement(), cache)


def test_batch_auto_is_computed_in_as_many_parts_as_fit() -> None:
    config = compose(["recipe=digits", "finetune.batch=auto"])
    assert (config.finetune.batch, config.finetune.accumulate) == (16, None)
    for batch in ("0", "many", "2.5"):
        with pytest.raises(UserError, match=r"finetune\.batch"):
            compose(["recipe=digits", f"finetune.batch={batch}"])


def test_a_batch_that_cannot_be_divided_is_refused(model: PlainNetwork) -> None:
    data = load(DataConfig(name="digits"), 16, 1, 0)
    with pytest.raises(UserError, match=r"finetune\.batch=16: set a multiple of 3, the number of processes times"):
        finetuning.check_training(model, FinetuneConfig(batch=16, accumulate=3), data, "finetune")
