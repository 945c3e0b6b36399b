"""A second phase of tuning has the teacher and the learning rate of the first, or says that it has not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import compress
from compress import checkpoint, data, models, recovery, reference
from compress.capabilities import Model
from compress.config import Config, Family, ModelConfig, compose
from compress.data import DataSet
from compress.errors import UserError
from compress.models import build
from compress.product import identity
from compress.stages import finetune

SMALL = "compress.models.small_cnn.SmallCNN"
SHORT = ["recipe=digits", "model=checkpoint", "stages=[finetune]", "targets=[]", "data.validation_images=50"]
SHORT += ["finetune.images=64", "finetune.learning_rate=null", "budget.flops=null", "threads=1"]
SHORT += ["force=true"]  # so little training teaches nothing


def small(**given: Any) -> Model:
    args = {"channels": 1, **given.pop("args", {})}
    return build(
        ModelConfig(**{"family": Family.module, "target": SMALL, "args": args, "channels": 1, "imgsz": 16} | given)
    )


@pytest.fixture(scope="module")
def unpruned() -> Model:
    return small()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpruned: Model) -> Path:
    """Holds `pruned`, which remembers the FLOPs of what it is from, and `reference`."""
    monkeypatch.chdir(tmp_path)
    checkpoint.save(unpruned, tmp_path / "reference")
    remembered = {"flops": compress.get_flops(unpruned), "imgsz": 16, "path": str(tmp_path / "reference")}
    checkpoint.save(compress.prune(unpruned, "40%"), tmp_path / "pruned", remembered)
    return tmp_path


def opened(place: Path, *overrides: str) -> tuple[Model, Config, DataSet]:
    config: Config = models.resolve(compose([*SHORT, f"model.path={place / 'pruned'}", *overrides]))
    dataset = data.load(config.data, *config.model.input, config.seed)
    model = build(config.model, dataset.classes, dataset.task)
    finetune.check(model, config, dataset, "finetune")
    return model, config, dataset


def test_the_named_teacher_teaches_and_the_rate_follows_what_was_pruned(place: Path, unpruned: Model) -> None:
    model, config, _ = opened(place, f"finetune.teacher={place / 'reference'}")
    found = reference.teacher(model, None, config)
    assert found is not None and identity(found) == identity(unpruned)
    assert config.finetune.teaching == 1.0
    before = reference.flops_before(model, None, config)
    assert before == compress.get_flops(unpruned)
    rate = recovery.learning_rate(model, found, before)
    assert rate == pytest.approx(recovery.RATE * before / compress.get_flops(model)) and rate > 2 * recovery.RATE
    assert reference.parts(found, before) != reference.parts(None, before)
    # A checkpoint that remembers nothing: its teacher tells.
    checkpoint.save(model, place / "pruned")
    model, config, _ = opened(place, f"finetune.teacher={place / 'reference'}")
    assert reference.flops_before(model, None, config) is None
    assert recovery.learning_rate(model, reference.teacher(model, None, config), None) == pytest.approx(rate)


def test_distillation_without_a_teacher_is_never_silent(place: Path) -> None:
    wanted = rf"^finetune\.distillation=0\.5: .*finetune\.teacher={place / 'reference'}, or finetune\.distillation=0$"
    with pytest.raises(UserError, match=wanted):
        opened(place, "finetune.distillation=0.5")
    model, config, dataset = opened(place)
    assert config.finetune.teaching == 0.0 and reference.teacher(model, None, config) is None
    assert recovery.learning_rate(model, None, reference.flops_before(model, None, config)) > 2 * recovery.RATE
    quiet = opened(place, f"finetune.teacher={place / 'reference'}", "finetune.distillation=0")[1]
    assert quiet.finetune.teaching == 0.0
    with pytest.raises(UserError, match=r"^train\.teacher"):
        finetune.check(model, compose(["recipe=digits", "train.teacher=x"]), dataset, "train")


@pytest.mark.parametrize(
    "given, why",
    [
        ({"args": {"classes": 7}}, "its classes: 7, of the model that is tuned: 10"),
        ({"args": {"channels": 3}, "channels": 3}, "its input channels: 3"),
        ({"imgsz": 32}, "its input size in pixels: 32"),
    ],
)
def test_a_teacher_must_suit_the_model(place: Path, given: dict[str, Any], why: str) -> None:
    checkpoint.save(small(**given), place / "other")
    with pytest.raises(UserError, match=rf"^finetune\.teacher={place / 'other'}: {why}"):
        opened(place, f"finetune.teacher={place / 'other'}")


def test_a_teacher_of_another_task_and_none_at_all(place: Path) -> None:
    with pytest.raises(UserError, match=r"^finetune\.teacher=drone_nano: its task: detect"):
        opened(place, "finetune.teacher=drone_nano")
    with pytest.raises(UserError, match=r"^finetune\.teacher=nowhere: no such file"):
        opened(place, "finetune.teacher=nowhere")


def test_detectors_with_other_heads_do_not_teach() -> None:
    with pytest.raises(UserError, match=r"^finetune\.teacher=drone_nano: its kind of network"):
        reference.load("drone_nano", build(ModelConfig(name="yolo11n", imgsz=256), tuple("abcde")), ModelConfig())
    taught = build(ModelConfig(name="yolo26n", imgsz=256), tuple("abcde"))
    assert reference.load("drone_nano", taught, ModelConfig()).imgsz == 256


def test_a_second_phase_is_one_run(place: Path) -> None:
    overrides = [*SHORT, f"model.path={place / 'pruned'}", f"finetune.teacher={place / 'reference'}"]
    compress.run(compose(overrides), place / "run")
    said = checkpoint.describe(place / "run" / "pruned")["reference"]
    assert said["path"] == str(place / "reference")  # and a third one knows it too
