"""LiteRT: names of operations, MACs of operators, types of inputs and outputs, postprocessing outside the file."""

from __future__ import annotations

import copy
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress import targets
from compress.capabilities import TopK
from compress.config import ExportConfig
from compress.errors import MissingExtra, TargetFailed
from compress.measurement import flops
from compress.product import Graph, Precision
from compress.targets import litert, litert_graph, quantization_exclusions
from compress.tasks import DETECT
from tests.fakes import FakeModel

SIDE = 16
CLASSES = ("a", "b")


class Rows(nn.Module):
    """A small detector: two branches of equal layers that share one activation, attention, one row per anchor."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.SiLU()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), act)
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), act, nn.ConvTranspose2d(8, 8, 2, 2), act)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 1), act, nn.Conv2d(8, width, 1)) for width in (4, len(CLASSES))
        )
        self.picks = False

    def forward(self, image: Tensor) -> Tensor:
        deep = self.deep(self.stem(image))
        flat = deep.flatten(2)[:, :, :64]
        deep = deep + (flat.transpose(1, 2) @ flat).softmax(2).mean()
        rows = torch.cat([branch(deep).flatten(2) for branch in self.branches], 1).permute(0, 2, 1)
        return rows[:, rows[0, :, 4:].amax(1).topk(5).indices] if self.picks else rows


@dataclass(frozen=True)
class Detector(FakeModel):
    """A detector that selects its detections by value."""

    def deployed(self, *, postprocess: bool = True) -> nn.Module:
        net = copy.deepcopy(self.net).eval().requires_grad_(False)
        assert isinstance(net, Rows)
        net.picks = postprocess
        return net


@pytest.fixture(scope="module")
def model() -> Detector:
    torch.manual_seed(0)
    selects = TopK(len(CLASSES), 5)
    return Detector(Rows(), DETECT, SIDE, 3, CLASSES, selects, {"branches.1.2": "last layer"})


@pytest.fixture(scope="module")
def graphs(model: Detector, tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Graph]:
    """FP32 and INT8."""
    for package in litert.PACKAGES:
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("litert")
    fp32 = litert.convert(model, folder / "fp32", ExportConfig())
    images = [model.example_input().numpy() * scale for scale in (0.5, 1.0)]
    return fp32, litert.quantize(fp32, model, images, folder / "int8")


def test_operations_tell_their_place(graphs: tuple[Graph, Graph]) -> None:
    for graph in graphs:
        places = [quantization_exclusions.module_path(layer.name) for layer in litert_graph.layers(graph)]
        products = {"stem.0", "deep.0", "deep.2", "", "branches.0.0", "branches.0.2", "branches.1.0", "branches.1.2"}
        assert len(places) == len(products) and set(places) == products
    result = {quantization_exclusions.module_path(node.name) for node in litert_graph.nodes_of(graphs[0].path)}
    assert result >= {"stem.1", "deep.1", "deep.3", "branches.0.1", "branches.1.1"}  # shared, once per path


def test_what_is_kept_stays_in_float_and_nothing_else(graphs: tuple[Graph, Graph]) -> None:
    fp32, int8 = graphs
    assert not any(layer.int8 for layer in litert_graph.layers(fp32))
    by_place = {quantization_exclusions.module_path(layer.name): layer for layer in litert_graph.layers(int8)}
    assert int8.exclusions["branches.1.2"] == "last layer"
    floats = {place for place, layer in by_place.items() if not layer.int8}
    assert floats == {"branches.1.2", ""}  # the attention product belongs to no module
    assert floats == {place for place, layer in by_place.items() if (place or layer.name) in int8.exclusions}


def test_macs_are_those_of_the_torch_network(model: Detector, graphs: tuple[Graph, Graph]) -> None:
    counted = flops.count(model.deployed(postprocess=False), model.example_input()).macs
    for graph in graphs:
        assert sum(layer.macs for layer in litert_graph.layers(graph)) == counted


def test_both_files_take_and_give_float32(graphs: tuple[Graph, Graph]) -> None:
    from ai_edge_litert.interpreter import Interpreter

    for graph in graphs:
        interpreter = Interpreter(str(graph.path))
        signature = interpreter.get_signature_list()["serving_default"]
        assert signature == {"inputs": ["images"], "outputs": ["output0"]}
        ends = (*interpreter.get_input_details(), *interpreter.get_output_details())
        assert [end["dtype"] for end in ends] == [np.float32, np.float32]


def test_rows_are_picked_behind_the_file(model: Detector, graphs: tuple[Graph, Graph]) -> None:
    image = model.example_input()
    with torch.no_grad():
        rows = model.deployed(postprocess=False)(image).numpy()
    fp32, int8 = graphs
    assert np.abs(litert.load(fp32, 1)(image.numpy()) - rows).max() < 1e-5 * np.abs(rows).max()
    assert fp32.postprocess == int8.postprocess == model.postprocess is not None
    assert np.allclose(targets.load(fp32, 1)(image.numpy()), model.postprocess(rows), atol=1e-4)


def test_a_file_cut_short_is_named(graphs: tuple[Graph, Graph], tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(graphs[0].path.read_bytes()[:200])
    cut = Graph(path, "litert", Precision.fp32)
    for use in (litert_graph.layers, lambda graph: litert.load(graph, 1)):
        with pytest.raises(TargetFailed, match=r"model\.tflite"):
            use(cut)


def test_an_absent_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"litert-torch.*\.\[litert\]"):
        litert.require()


def test_packages_are_silenced_for_a_while_only(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("absl")
    with litert._quiet():
        os.write(2, b"an advertisement\n")
    os.write(2, b"an error\n")
    assert capfd.readouterr().err == "an error\n"


def test_their_log_handler_does_not_close_our_stream() -> None:
    absl_logging = pytest.importorskip("absl.logging")
    ours = io.StringIO()
    absl_logging.get_absl_handler().python_handler.setStream(ours)  # at import it takes the current stderr
    with litert._quiet():
        pass
    absl_logging.get_absl_handler().close()
    assert not ours.closed
