"""Architectures that come from a file: layers within bounds, and nothing else."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from compress.capabilities import Checkpointable, require
from compress.config import ModelConfig
from compress.errors import UserError
from compress.models import build, from_constructor, ultralytics_yaml

pytest.importorskip("ultralytics")


YAML = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[1], 1, "Detect", ["nc"]]],
}
TORCHVISION = "torchvision.ops.Conv2dNormActivation"


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "__import__('os').system('touch {sentinel}')"},
        {"activation": "nn.SiLU(__import__('os').system('touch {sentinel}'))"},
        {"activation": "nn.modules.activation.torch.os.system('touch {sentinel}')"},
        {"activation": ["nn.SiLU()"]}, {"activation": "nn.Module()"}, {"activation": "(" * 90},
        {"backbone": [[-1, 1, "os.system", ["touch {sentinel}"]]]}, {"backbone": [[-1, 1, "ast", []]]},
        {"backbone": [[-1, 1, "torch_safe_load", ["x.pt"]]]}, {"backbone": [[-1, 1, "DetectionModel", ["x.yaml"]]]},
        {"backbone": [[-1, 1, "TorchVision", [512, "resnet18", "DEFAULT"]]]}, {"backbone": [[-1, 1, TORCHVISION, [3]]]},
        {"backbone": [[-1, 1, "nn.Module", []]]}, {"backbone": [[-1, 1, "nn.functional.conv2d", []]]},
        {"backbone": [[-1, 1, "Conv", ["locals"]]]}, {"backbone": [[-1, 1, "Conv", ["d"]]]},
        {"backbone": [[-1, 1, "Conv", ["(" * 10_000]]]}, {"backbone": [[-1, 10**9, "Conv", [16]]]},
        {"backbone": [[-1, 1, "Conv", [2**20, 99, 2]], [-1, 1, "Conv", [2**20, 99, 2]]]},
        {"backbone": [[-1, 1, "Conv", [-16]]]}, {"backbone": [[10**9, 1, "Conv", [16]]]}, {"backbone": 3},
        {"backbone": [3]}, {"head": []}, {"head": [[[7], 1, "Detect", ["nc"]]]}, {"scales": {"n": [1e9, 1, 1]}},
        {"scales": {"n": "x"}}, {"scales": 3}, {"scale": "zz", "scales": {"n": [1, 1, 64]}}, {"nc": 10**12},
        {"reg_max": 10**9}, {"reg_max": -1}, {"depth_multiple": "x"}, {"end2end": "ast"},
    ],
)  # fmt: skip
def test_an_architecture_in_a_file_reaches_nothing_but_layers(change: dict[str, Any], sentinel: Path) -> None:
    constructor = {
        "family": "ultralytics", "name": "x", "split": False, "classes": ["a", "b"], "channels": 3, "imgsz": 64,
        "protected": [], "activation": None,
    }  # fmt: skip
    assert from_constructor(constructor | {"yaml": YAML})
    change = json.loads(json.dumps(change).replace("{sentinel}", str(sentinel)))
    with pytest.raises(UserError) as caught:
        from_constructor(constructor | {"yaml": YAML | change})
    assert not sentinel.exists() and "\n" not in str(caught.value)


def test_shipped_architectures_pass() -> None:
    for name in ("yolo26n", "yolo11n", "yolov8n", "yolo26n-cls", "yolov8n-seg"):
        constructor = require(build(ModelConfig(name=name, imgsz=64)), Checkpointable, "model", name).constructor()
        assert partial(from_constructor, trust=False)(constructor).constructor() == constructor


def layered(count: int) -> dict[str, Any]:
    return YAML | {"backbone": [[-1, 1, "Conv", [16]] for _ in range(count - 1)]}


def test_an_architecture_of_the_largest_number_of_layers_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ultralytics_yaml, "MAX_LAYERS", 5)
    ultralytics_yaml.check(layered(5) | {"head": [[[3], 1, "Detect", ["nc"]]]}, 3, 2)
    with pytest.raises(UserError, match="architecture: must have at most 5 layers"):
        ultralytics_yaml.check(layered(6), 3, 2)


@pytest.mark.parametrize(
    "activation", [None, "nn.SiLU()", "torch.nn.LeakyReLU(0.1)", "nn.LeakyReLU(negative_slope=0.1, inplace=True)"]
)
def test_activations_of_torch_with_plain_arguments_pass(activation: str | None) -> None:
    ultralytics_yaml.check(YAML | {"activation": activation}, 3, 2)


@pytest.mark.parametrize("activation", ["nn.LeakyReLU('0.1')", "nn.Conv2d(3, 3, 1)", "nn.SiLU", "SiLU()", "", 3])
def test_other_activations_are_refused_with_an_example(activation: object) -> None:
    with pytest.raises(UserError, match=r"the activation must be one of torch\.nn .* e\.g\. nn\.SiLU\(\)"):
        ultralytics_yaml.check(YAML | {"activation": activation}, 3, 2)


def test_the_classes_of_the_description_count_and_not_those_of_the_architecture() -> None:
    """Its size is checked as it will be built."""
    ultralytics_yaml.check(YAML | {"nc": 2**20}, 3, 2)
    with pytest.raises(UserError, match="describes a network of .* weights: damaged or altered"):
        ultralytics_yaml.check(YAML, 3, 2**27)


def test_the_given_architecture_stays_as_it_was() -> None:
    given = json.loads(json.dumps(YAML))
    ultralytics_yaml.check(given, 3, 80)
    assert given == YAML


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(UserError) as caught:
        ultralytics_yaml.check(YAML | {"backbone": [[-1, 1, "x" * 10_000, []]]}, 3, 2)
    assert len(str(caught.value)) < 300 and "…" in str(caught.value)
