from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from compress.cache import Cache
from compress.capabilities import TorchModel, require
from compress.config import Config, DeviceConfig, ExportConfig, Family, Figure, ModelConfig
from compress.ledger import Latency, Provenance, Row
from compress.measurement import bottlenecks
from compress.models import build
from compress.targets import onnx_graph
from compress.targets.converter import Converter

BOARD = DeviceConfig(
    "board", peak_gops={"fp32": Figure(100, "a table")}, bandwidth_gb_s=Figure(10, "a table"), precisions=["fp32"]
)


class Mixed(nn.Module):
    """One layer of each kind that a remark tells apart."""

    def __init__(self, classes: int = 4, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.act = nn.SiLU()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.up = nn.Upsample(scale_factor=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.up(self.depthwise(self.act(self.first(image))))
        result: Tensor = self.head(self.pool(features).flatten(1))
        return result


@pytest.fixture
def model() -> TorchModel:
    config = ModelConfig(family=Family.module, target=f"{__name__}.Mixed", imgsz=16)
    return require(build(config, tuple("abcd")), TorchModel, "model", "mixed")


@pytest.fixture
def converter(tmp_path: Path) -> Converter:
    return Converter(tmp_path, ExportConfig(), Cache(tmp_path / "cache"))


def row(stage: str, macs: int, ratio: float, *, precision: str = "fp32", contended: bool = False) -> Row:
    timing = Latency(
        10 * ratio, 10 * ratio, 50, 10 * ratio, 10 * ratio, 0.0, contended, ratio, (ratio, ratio), "onnxruntime", 1, 1,
        device="host", obtained=Provenance.measured,
    )  # fmt: skip
    return Row(stage, "onnxruntime", precision, imgsz=16, macs=macs, latency_ms=timing)


def rows(*, macs: int = 500, ratio: float = 0.9, contended: bool = False) -> list[Row]:
    first = row("load", 1000, 1.0)
    return [replace(first, target=None), first, row("export", macs, ratio, contended=contended)]


def test_every_node_has_a_kind_and_its_time(model: TorchModel, converter: Converter) -> None:
    graph = onnx_graph.read(converter.fp32(model, "onnxruntime").path)
    seconds = {node.name: 1.0 for node in graph.graph.node}
    parts = bottlenecks.parts(graph, {**seconds, "": 2.0, bottlenecks.START: 3.0}, model)
    kinds = {part.module: part.kind for part in parts if part.module}
    assert kinds["first"] == "" and kinds["depthwise"] == bottlenecks.DEPTHWISE and kinds["up"] == bottlenecks.COPIES
    assert kinds["act"] == bottlenecks.ACTIVATIONS and kinds["pool"] == bottlenecks.OTHERS
    assert kinds["head"] == bottlenecks.KEPT
    assert sum(part.seconds for part in parts) == len(seconds) + 5.0
    assert sum(part.macs for part in parts) == 16 * 27 * 256 + 16 * 9 * 256 + 4 * 16


def test_time_that_is_left_is_explained(model: TorchModel, converter: Converter) -> None:
    times = {"/act/Mul": 0.4, "/first/Conv": 0.05, "/depthwise/Conv": 0.3, "/up/Resize": 0.25}
    [remark] = bottlenecks.remarks(Config(), rows(), (model, model), converter, lambda *_: times)
    assert remark.kind == "time_not_saved" and remark.lasting
    assert remark.text.startswith("50% fewer FLOPs save 10% of the time in onnxruntime/fp32 on this machine")
    assert "not fused 40% (finetune.activation=relu" in remark.text and "copies and resizing 25%" in remark.text
    assert "act (40% of the time, 0.0% of the FLOPs)" in remark.text
    assert remark.numbers[bottlenecks.DEPTHWISE] == pytest.approx(0.3)
    assert "layers that keep" not in remark.text  # the head took no time


@pytest.mark.parametrize(
    "given",
    [
        rows(ratio=0.6),  # as much as can be expected
        rows(macs=990),  # the FLOPs did not fall
        rows(contended=True),
        [row("load", 1000, 1.0)],  # nothing was made
    ],
)
def test_nothing_is_said_without_need(model: TorchModel, converter: Converter, given: list[Row]) -> None:
    assert bottlenecks.remarks(Config(), given, (model, model), converter) == []


def test_another_device_is_explained_by_its_prediction(model: TorchModel, converter: Converter) -> None:
    """The same network twice: no time is saved, most is that of starting and of each operator."""
    [remark] = bottlenecks.remarks(Config(device=BOARD), rows(), (model, model), converter)
    assert "save 0% of the time by prediction for board in onnxruntime/fp32" in remark.text
    assert remark.numbers[bottlenecks.START] > 0.5
    unknown = replace(BOARD, bandwidth_gb_s=None)
    assert bottlenecks.remarks(Config(device=unknown), rows(), (model, model), converter) == []
