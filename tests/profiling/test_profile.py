from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from onnx import helper
from torch import nn

from compress.errors import UserError
from compress.measurement import layer_latency
from compress.measurement.roofline import Roofline
from compress.profiling import profile as profiling
from compress.profiling import source
from compress.profiling.profile import Layer, Profile, count, profile, size_of
from compress.profiling.subject import Subject
from compress.targets import onnx_graph
from tests.models import onnx_files

ROOF = Roofline({"f32": 100.0, "bf16": 200.0, "int8": 400.0}, 10.0, 1)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_latency, "RUNS", 5)
        patch.setattr(profiling, "SECONDS", 0.05)
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return profile(count("resnet20", found("resnet20", tmp_path_factory.mktemp("resnet20"))), 1, ROOF)


def found(word: object, folder: Path) -> Subject:
    return source.find(str(word), folder)()


def test_layers_sum_to_the_totals(measured: Profile) -> None:
    model = source.load("resnet20")
    assert sum(layer.macs for layer in measured.layers) == measured.macs
    assert sum(layer.other_flops for layer in measured.layers) == measured.other_flops
    assert all(sum(layer.other_by_kind.values()) == layer.other_flops for layer in measured.layers)
    assert sum(layer.bytes for layer in measured.layers) == measured.bytes_moved
    assert sum(layer.time_fraction for layer in measured.layers) == pytest.approx(1)
    assert sum(layer.flops_fraction for layer in measured.layers) == pytest.approx(1)
    convolutions = [layer for layer in measured.layers if layer.operators == "Conv"]
    assert len(convolutions) == 19 + 2 and all(layer.ms > 0 for layer in convolutions)  # and two shortcuts
    assert measured.params < (measured.net_params or 0) == sum(p.numel() for p in model.net.parameters())  # type: ignore[attr-defined]


def test_modules_are_counted_without_those_that_contain_others() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.Sequential(nn.Linear(2, 4), nn.ReLU()))
    net[0].weight.requires_grad_(False)
    assert size_of(net) == (3, 6 + 12, 12)


def test_achieved_speed_is_compared_with_the_machine(measured: Profile, tmp_path: Path) -> None:
    assert [speed.runtime.split()[0] for speed in measured.speeds] == ["onnxruntime", "openvino"]
    first = measured.speeds[0]
    assert first.gflops_per_second == pytest.approx(measured.flops / first.ms / 1e6)
    assert first.peak_fraction == pytest.approx(first.gflops_per_second / 100)
    attainable = min(100.0, measured.flops / measured.bytes_moved * 10)
    assert first.roof_fraction == pytest.approx(first.gflops_per_second / attainable)
    assert (
        profile(count("a", found("resnet20", tmp_path)), 1, replace(ROOF, peak_gops={})).speeds[0].roof_fraction is None
    )


def test_an_onnx_file_has_the_costs_of_its_network(measured: Profile, tmp_path: Path) -> None:
    path = onnx_graph.export(source.load("resnet20"), tmp_path / "model.onnx", 17)
    given = profile(count("file", found(path, tmp_path)), 1, ROOF)
    assert (given.macs, given.params, given.modules, given.gradients) == (measured.macs, measured.params, None, None)
    assert [layer.name.strip("/") for layer in given.layers] == [layer.name.strip("/") for layer in measured.layers]


def test_a_quantized_file_has_its_bit_operations_by_layer(tmp_path: Path) -> None:
    path = onnx_files.save(onnx_files.quantized_classifier(), tmp_path / "int8.onnx")
    given = profile(count("file", found(path, tmp_path)), 1, ROOF)
    convolutions = [layer for layer in given.layers if "Conv" in layer.operators]
    first, second = (8 * 64 * c * 9 for c in (3, 8))
    assert [(layer.macs, layer.bit_operations) for layer in convolutions] == [
        (first, first * 1024),
        (second, second * 64),
    ]
    assert given.speeds[0].precision == "int8"  # most MACs
    assert given.bit_operations == first * 1024 + second * 64 + 80 * 1024
    assert given.as_dict()["layers"][0]["bit_operations"] == first * 1024


def test_operators_without_a_formula_are_refused_or_counted_apart(tmp_path: Path) -> None:
    made = onnx_files.classifier()
    made.graph.node[5].CopyFrom(helper.make_node("Det", ["features"], ["mean"], name="/det/Det"))
    subject = found(onnx_files.save(made, tmp_path / "det.onnx"), tmp_path)
    with pytest.raises(UserError, match="Det"):
        count("file", subject)
    given = profile(count("file", subject, "warn"), 1, ROOF)
    assert (given.unknown, given.operators) == ({"Det": 1}, ())
    assert given.macs == 8 * 64 * (3 + 8) * 9 + 80


def test_a_layer_is_dear_if_its_time_exceeds_its_flops() -> None:
    layer = Layer("a", "Sigmoid", (1, 8), 0, 8, 0, 64, ms=0.1, time_fraction=0.05, flops_fraction=0.0)
    assert layer.dear and layer.intensity == 8 / 64 and layer.gflops_per_second is None
    assert not replace(layer, time_fraction=0.009).dear  # takes no time worth mentioning
    assert replace(layer, macs=10, flops_fraction=0.016).dear and not replace(layer, flops_fraction=0.017).dear


def test_everything_measured_is_in_the_dictionary(measured: Profile) -> None:
    content = profiling.as_dict([measured], ROOF)
    assert content["roofline"]["peak_gops"]["f32"] == 100.0 and content["host"]["threads"] >= 1
    (model,) = content["models"]
    assert sum(model["other_by_kind"].values()) == model["other_flops"] > 0
    assert model["activation_bytes_in_place"] <= model["activation_bytes"]
    assert model["bit_operations"] == 1024 * model["macs"] and model["unknown"] == {}
    assert model["flops"] == 2 * model["macs"] and model["layers"][0]["flops"] == measured.layers[0].flops
