"""One's own model and data: each thing that README names is one command, and passes every check before work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import compress
from compress import models, pipeline
from compress.config import ModelConfig, compose
from compress.errors import UserError
from compress.models import ultralytics_pt


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in YOLO's format with two classes, and networks for two and three classes, made for 96 px."""
    place, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (place / kind / split).mkdir(parents=True)
        for index in range(40 if split == "train" else 4):
            cv2.imwrite(str(place / "images" / split / f"{index}.png"), rng.integers(0, 255, (64, 64, 3), np.uint8))
            (place / "labels" / split / f"{index}.txt").write_text(f"{index % 2} 0.5 0.5 0.4 0.4\n")
    (place / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: a, 1: b}\n")
    for name, classes in (("two", ("x", "y")), ("three", ("x", "y", "z"))):
        model: Any = models.build(ModelConfig(name="yolov8n", imgsz=96), classes)
        ultralytics_pt.save(model, place / f"{name}.pt")
    return place


def checked(place: Path, *overrides: str) -> pipeline.Plan:
    own = ["data=yolo", f"data.path={place / 'data.yaml'}", "threads=1", "targets=[]", "data.calibration_images=4"]
    return pipeline._checked(compose([*own, *overrides]))


def test_from_random_weights_and_from_those_of_a_pt(place: Path) -> None:
    common = ["recipe=custom", "stages=[train]", "budget.flops=null", "train.images=16", "model.imgsz=64"]
    for start in ([], [f"model.init={place / 'three.pt'}"]):
        plan = checked(place, *common, "model=yolov8n", *start)
        model = plan.product.model
        assert model.classes == ("a", "b") and model.imgsz == plan.data.validation.imgsz == 64
        assert plan.config.model.path is None


def test_a_pt_of_other_classes_names_the_way(place: Path) -> None:
    with pytest.raises(UserError, match=r"has 3 classes, the data has 2: .* model\.init="):
        checked(place, "recipe=profile", "model=ultralytics", f"model.path={place / 'three.pt'}")


def test_evaluation_only_is_at_the_models_own_size(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    given = ["recipe=profile", "model=ultralytics", "model.path=two.pt", "data=yolo", "data.path=data.yaml"]
    compress.run(compose([*given, "targets=[]", "threads=1"]), place / "own")
    row = json.loads((place / "own" / "ledger.jsonl").read_text().splitlines()[0])
    model = models.build(ModelConfig(path="two.pt"))
    assert row["imgsz"] == 96 and row["flops"] == compress.get_flops(model)
    assert row["accuracy"]["images"] == 4
    plan = checked(place, *given, "model.imgsz=64")
    asked = plan.product.model
    assert asked.imgsz == plan.data.validation.imgsz == 64
    assert compress.get_flops(asked) == compress.get_flops(model, 64) < row["flops"]
