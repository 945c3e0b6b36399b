"""Networks that segment have two outputs, rows and mask prototypes, in every runtime as in torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress import targets
from compress.config import ExportConfig, ModelConfig
from compress.models import build
from compress.models.ultralytics_model import UltralyticsModel
from compress.tasks.outputs import arrays
from tests.end_to_end.test_every_target import PACKAGES
from tests.end_to_end.test_every_yolo import AGREEMENT, difference, randomise

IMGSZ = 64
NAMES = ["yolo11n-seg", "yolo26n-seg"]


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> UltralyticsModel:
    torch.manual_seed(0)
    built = build(ModelConfig(name=request.param, imgsz=IMGSZ), ("a", "b", "c", "d"))
    assert isinstance(built, UltralyticsModel)
    randomise(built.net, built.example_input())
    return built


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "ncnn", "litert"])
def test_both_outputs_are_those_of_torch(model: UltralyticsModel, target: str, tmp_path: Path) -> None:
    for package in PACKAGES.get(target, ()):
        pytest.importorskip(package)
    graph = targets.get(target).convert(model, tmp_path / target, ExportConfig())
    image = model.example_input()
    result = targets.get(target).load(graph, 1, exact=True)(image.numpy())
    rows, prototypes = arrays(graph.postprocess(result) if graph.postprocess else result)
    with torch.no_grad():
        expected = model.deployed()(image)
    assert expected[1].shape == (1, 32, IMGSZ // 4, IMGSZ // 4)
    computed = [torch.from_numpy(each) for each in (rows, prototypes)]
    assert difference(list(expected), computed, relative=True) <= AGREEMENT
