"""A model's own input size, channels and classes are the defaults; others must be asked for, and hold everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import compress
from compress import checkpoint, models
from compress.capabilities import Checkpointable, require
from compress.config import Config, Family, ModelConfig, compose
from compress.errors import UserError
from compress.measurement import flops
from compress.models import build
from compress.models.plain_network import PlainNetwork
from compress.models.ultralytics_model import UltralyticsModel
from tests.models.toy import Net


def own(**given: Any) -> tuple[int, int]:
    return models.resolve(Config(model=ModelConfig(**given))).model.input


def toy(imgsz: int = 48) -> PlainNetwork:
    model = build(ModelConfig(Family.module, target=f"{Net.__module__}.Net", imgsz=imgsz))
    assert isinstance(model, PlainNetwork)
    return model


@pytest.fixture
def pt(tmp_path: Path) -> Path:
    from compress.models import ultralytics_pt

    model = build(ModelConfig(name="yolov8n", imgsz=96), ("a", "b"))
    assert isinstance(model, UltralyticsModel)
    assert ultralytics_pt.save(model, tmp_path / "best.pt")
    return tmp_path / "best.pt"


def test_a_checkpoint_comes_at_its_own_size(tmp_path: Path) -> None:
    model = toy()
    checkpoint.save(model, tmp_path)
    given: dict[str, Any] = {"family": Family.checkpoint, "path": str(tmp_path), "trust": True}
    assert own(**given) == (48, 3) and own(**given, imgsz=0, channels=0) == (48, 3)
    assert build(ModelConfig(**given)).imgsz == compress.load(tmp_path, trust=True).imgsz == 48
    larger = build(ModelConfig(**given, imgsz=64))
    assert own(**given, imgsz=64) == (64, 3) and larger.imgsz == 64
    # One size for everything: what is counted is what images are read for.
    at = {side: flops.count(toy(imgsz=side).deployed(), torch.zeros(1, 3, side, side)).flops for side in (48, 64)}
    assert compress.get_flops(model) == at[48] and compress.get_flops(larger) == at[64] > at[48]
    with pytest.raises(UserError, match=r"^model\.channels=1: .*takes 3"):
        build(ModelConfig(**given, channels=1))


def test_a_digits_checkpoint_is_read_for_grey_images_of_16_pixels(tmp_path: Path) -> None:
    digits = models.resolve(compose(["recipe=digits"])).model
    checkpoint.save(require(build(digits), Checkpointable, "model", "digits"), tmp_path)
    config = models.resolve(compose(["recipe=digits", "model=checkpoint", f"model.path={tmp_path}"]))
    assert config.model.input == digits.input == (16, 1)
    with pytest.raises(UserError, match=r"has 10 classes, the data has 2"):
        build(config.model, ("a", "b"))


def test_a_pt_comes_at_the_size_it_was_trained_at(pt: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert own(path=str(pt)) == (96, 3) and build(ModelConfig(path=str(pt))).imgsz == 96
    assert own(name="yolov8n", weights=str(pt)) == (96, 3)
    assert not [record for record in caplog.records if "trained at" in record.message]
    assert build(ModelConfig(path=str(pt), imgsz=64)).imgsz == 64 and "was trained at 96" in caplog.text


def test_data_of_other_classes_is_refused_with_what_to_do(pt: Path) -> None:
    with pytest.raises(
        UserError, match=rf"has 2 classes, the data has 3: .*model\.name=<architecture> model\.init={pt} "
    ):
        build(ModelConfig(path=str(pt)), ("x", "y", "z"))
    started = build(ModelConfig(name="yolov8n", init=str(pt), imgsz=96), ("x", "y", "z"))
    assert started.classes == ("x", "y", "z")


def test_weights_with_a_description_bring_their_size() -> None:
    assert own(name="yolo26n", weights="drone_nano") == (256, 3)


def test_what_is_taken_where_a_model_says_nothing() -> None:
    assert own(name="yolo26n") == (640, 3)
    assert own(family=Family.module, target="compress.examples.small_cnn.SmallCNN") == (224, 3)
    pytest.importorskip("timm")
    assert own(family=Family.timm, name="test_resnet") == (160, 3)
    assert own(family=Family.timm, name="test_resnet", imgsz=64, channels=1) == (64, 1)


@pytest.mark.parametrize("recipe", ["drone_nano", "digits", "tree_crowns", "jetson_orin_nano"])
def test_weights_belong_to_the_choice_of_a_model(recipe: str) -> None:
    config = models.resolve(compose([f"recipe={recipe}", "model=yolo11n"])).model
    assert config.name == "yolo11n" and config.input == (640, 3)
    assert (config.weights, config.init, config.target, config.args) == (None, None, None, {})


def test_the_recipes_models_are_as_before() -> None:
    drone = compose(["recipe=drone_nano"]).model
    assert (drone.name, drone.weights, drone.imgsz) == ("yolo26n", "drone_nano", 256)
    crowns = compose(["recipe=tree_crowns"]).model
    assert (crowns.name, crowns.imgsz) == ("yolov8n", 320) and str(crowns.init).endswith(
        "yolov8n_smartrail.safetensors"
    )
    digits = compose(["recipe=digits"]).model
    assert (digits.target, digits.args) == ("compress.examples.small_cnn.SmallCNN", {"channels": 1})
    assert digits.input == (16, 1)


@pytest.mark.parametrize(
    ("words", "task"),
    [
        (["model=yolo26n"], "detect"),
        (["model=yolo11n", "model.name=yolo11n-seg"], "segment"),
        (["model=yolo26n", "model.name=yolo26n-pose"], "pose"),
        (["model=yolo26n", "model.name=yolo26n-obb", "data=yolo", "data.path=a.yaml"], "obb"),
        (["model=yolo26n", "model.name=yolo26n-obb", "data.task=detect"], "detect"),
        (["model=yolo11n", "model.name=yolo11n-cls"], None),
        (["model=yolo26n", "model.name=yolo26n-seg", "data=voc", "data.path=a"], None),
    ],
)
def test_labels_are_those_of_the_models_task(words: list[str], task: str | None) -> None:
    assert models.resolve(compose(["recipe=profile", *words])).data.task == task


def test_the_task_of_files_is_known(pt: Path, tmp_path: Path) -> None:
    config = Config(model=ModelConfig(path=str(pt)))
    assert models.resolve(config).data.task == "detect"
    model = require(build(ModelConfig(name="yolo26n-seg", imgsz=64), ("a",)), Checkpointable, "model", "")
    checkpoint.save(model, tmp_path / "folder")
    config = Config(model=ModelConfig(Family.checkpoint, path=str(tmp_path / "folder")))
    assert models.resolve(config).data.task == "segment"
    checkpoint.save(toy(), tmp_path / "toy")
    given: Any = {"family": Family.checkpoint, "path": str(tmp_path / "toy"), "trust": True}
    assert models.resolve(Config(model=ModelConfig(**given))).data.task is None
