from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress import disk
from compress.capabilities import TorchModel, require
from compress.config import DeviceConfig, Family, Figure, ModelConfig
from compress.devices.prediction import calibrate
from compress.measurement import layer_latency
from compress.measurement.layer_latency import layer_seconds, predicted_layer_seconds
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
    seen: dict[tuple[str, str], float] = {}

    def profile(path: Path, image: object, threads: int, folder: Path) -> dict[tuple[str, str], float]:
        seen.update(original(path, image, threads, folder))
        return seen

    original = layer_latency._profile
    monkeypatch.setattr(layer_latency, "RUNS", 10)
    monkeypatch.setattr(layer_latency, "_profile", profile)
    seconds = layer_seconds(model, threads=1)
    reorders = sum(took for (node, _), took in seen.items() if "eorder" in node)  # the runtime's own changes of layout
    assert sum(seconds.values()) == pytest.approx(sum(seen.values()) - reorders, rel=0.05)


def test_a_fused_sum_counts_as_its_convolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """relu(shortcut + conv(x)): the runtime names the fused node after the last of the three."""
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], "shortcut"),
        helper.make_node("Conv", ["images", "w"], ["b"], "conv"),
        helper.make_node("Add", ["a", "b"], ["c"], "add"),
        helper.make_node("Relu", ["c"], ["output0"], "relu"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in ("images", "output0")]
    weights = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w")
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [weights])), tmp_path / "m.onnx")
    events = {
        ("shortcut_nchwc", "Conv"): 1.0,
        ("relu_output_0_nchwc", "Conv"): 2.0,
        ("ReorderInput", "ReorderInput"): 4.0,
    }
    monkeypatch.setattr(layer_latency, "_profile", lambda *arguments: events)
    image = np.zeros((1, 3, 4, 4), np.float32)
    assert layer_latency.node_seconds(tmp_path / "m.onnx", image, 1) == {"shortcut": 1.0, "conv": 2.0, "": 4.0}


def test_layers_of_a_device_have_predicted_times(model: TorchModel) -> None:
    fast = DeviceConfig("fast", peak_gops={"fp32": Figure(1000, "a table")}, bandwidth_gb_s=Figure(100, "a table"))
    slow = DeviceConfig("slow", peak_gops={"fp32": Figure(10, "a table")}, bandwidth_gb_s=Figure(1, "a table"))
    seconds = predicted_layer_seconds(model, calibrate(fast, []), "onnxruntime", "fp32")
    assert set(seconds) == layers(model)
    slower = predicted_layer_seconds(model, calibrate(slow, []), "onnxruntime", "fp32")
    assert all(slower[layer] > seconds[layer] > 0 for layer in seconds)
    assert predicted_layer_seconds(model, calibrate(fast, []), "onnxruntime", "fp32") == seconds  # nothing is measured


def test_a_profile_that_a_full_disk_cut_off_is_the_disks_error(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('[{"cat": "Node", "na')
    with pytest.raises(OSError) as caught:
        layer_latency._events(profile)
    line = disk.problem(caught.value, Path("other"))
    assert line is not None and line.startswith(f"{profile}: the disk is full: ")
