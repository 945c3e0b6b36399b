from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from compress.capabilities import TorchModel, require
from compress.config import Family, ModelConfig
from compress.measurement import layer_latency
from compress.measurement.layer_latency import layer_seconds
from compress.models import build


@pytest.fixture
def model() -> TorchModel:
    args = {"width": 16}
    config = ModelConfig(family=Family.module, target="tests.models.toy.Net", args=args, imgsz=64)
    return require(build(config, tuple("abcdefghij")), TorchModel, "model", "toy")


def layers(model: TorchModel) -> set[str]:
    return {name for name, layer in model.net.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}


def test_every_layer_has_its_time(model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_latency, "RUNS", 10)
    seconds = layer_seconds(model, threads=1)
    assert set(seconds) == layers(model)
    assert all(0 < took < 1 for took in seconds.values())


def test_what_is_no_layer_is_charged_to_what_feeds_it(model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the profiler saw is charged to some layer, in equal parts where several feed a node."""
    seen: dict[str, float] = {}

    def profile(path: Path, image: object, threads: int, folder: Path) -> dict[str, float]:
        seen.update(original(path, image, threads, folder))
        return seen

    original = layer_latency._profile
    monkeypatch.setattr(layer_latency, "RUNS", 10)
    monkeypatch.setattr(layer_latency, "_profile", profile)
    seconds = layer_seconds(model, threads=1)
    reorders = sum(took for node, took in seen.items() if "eorder" in node)  # the runtime's own changes of layout
    assert sum(seconds.values()) == pytest.approx(sum(seen.values()) - reorders, rel=0.05)
