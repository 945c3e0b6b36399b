"""What later comparisons stand on: scenes and weights that stay what they were."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from compress import data
from compress.capabilities import Evaluable, require
from compress.config import DataConfig, ModelConfig
from compress.examples import field_scenes
from compress.measurement.accuracy import evaluate, predictor
from compress.models import build
from compress.models.weights import BASELINES
from compress.tasks import DETECT

pytest.importorskip("ultralytics")

# Frozen: whoever changes the scenes or the weights starts a new series of comparisons, and says so in CHANGELOG.
GENERATOR_VERSION = 1
DATA = "f1acd67ded03e284112efeb30ff50bf8d99e8582438c1ced3c918932bc9cc15f"
WEIGHTS = "2e250ffb4b6e035dc642a3c3d7ddc6a1f0f70ffbff6b9322e69105ccc9b2e9a4"
FOLDER = BASELINES / "drone_nano"


def test_nothing_moved() -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    weights = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert (field_scenes.GENERATOR_VERSION, record["data_fingerprint"], weights) == (GENERATOR_VERSION, DATA, WEIGHTS)


def test_the_baseline_knows_the_scenes_that_the_generator_draws(tmp_path: Path) -> None:
    path = field_scenes.prepare(tmp_path, 256, counts={"train": 16, "validation": 50}, workers=1) / "data.yaml"
    scenes = data.load(DataConfig(name="yolo", path=str(path), calibration_images=8), 256, 3, 0)
    config = ModelConfig(name="yolo26n", weights="drone_nano", imgsz=256)
    model = require(build(config, scenes.classes, DETECT), Evaluable, "model", "yolo26n")
    net = predictor(model.deployed())
    result = evaluate(net, model.decode, scenes.validation, DETECT, scenes.classes, batch=10)
    record = json.loads((FOLDER / "training.json").read_text())["validation"]
    assert abs(result.value - record["value"]) < 0.06  # fifty images: two standard errors are 0.05
