"""ncnn: two files per graph, no top-k, a converter that reports no errors, FP16 instead of INT8."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress import targets
from compress.capabilities import TopK
from compress.config import ExportConfig
from compress.errors import TargetFailed
from compress.product import Graph, Precision
from compress.targets import ncnn
from compress.tasks import DETECT, Outputs, Task
from compress.tasks.outputs import first
from tests.fakes import FakeModel, Masks

pytest.importorskip("pnnx")
pytest.importorskip("ncnn", exc_type=ImportError)

SIDE = 32


@dataclass(frozen=True)
class Network(FakeModel):
    task: Task = DETECT
    imgsz: int = SIDE
    classes: tuple[str, ...] = ("a", "b")

    def deployed(self, *, postprocess: bool = True) -> nn.Module:
        assert not (postprocess and self.postprocess), "ncnn is asked for the network without its last step"
        return self.net.eval()

    def convert(self, folder: Path) -> Graph:
        return ncnn.convert(self, folder, ExportConfig())


class Rows(nn.Module):
    """Maps (b, c, 32, 32) to one row of 4 + 2 values per anchor, 16 anchors."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(channels, 6, 8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x).flatten(2).permute(0, 2, 1)


class Best(Rows):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).amax(2).topk(5).values


def _image(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).random((1, channels, SIDE, SIDE), dtype=np.float32)


def test_a_detectors_tail_is_left_to_numpy(tmp_path: Path) -> None:
    model, image = Network(Rows(), postprocess=TopK(classes=2, max_detections=5)), _image()
    with torch.no_grad():
        rows = model.net(torch.from_numpy(image)).numpy()
    graph = model.convert(tmp_path / "fp32")
    (packed,) = ncnn.package([graph], tmp_path / "artifact", model, {})
    result = first(targets.load(packed, 1)(image))
    assert result.shape == (1, 5, 6)
    assert np.allclose(result, TopK(2, 5)(rows), atol=1e-5)

    manifest = json.loads((tmp_path / "artifact/manifest.json").read_text())
    assert manifest["tail"]["kind"] == "top_k" and manifest["tail"]["most"] == 5
    assert manifest["outputs"] == [{"name": "out0", "shape": [1, 16, 6], "dtype": "float32"}]
    # Ultralytics recognises a folder by its suffix, and would misinterpret rows of all anchors.
    assert set(manifest["files"]) >= {"fp32/model.param", "fp32/model.bin"}


def test_without_a_tail_the_folder_is_one_that_ultralytics_knows(tmp_path: Path) -> None:
    model = Network(Rows())
    ncnn.package([model.convert(tmp_path / "fp32")], tmp_path / "artifact", model, {})
    assert (tmp_path / "artifact/fp32_ncnn_model/metadata.yaml").is_file()


def test_fp32_is_computed_in_float32_and_the_same_every_time(tmp_path: Path) -> None:
    model, image = Network(Rows(channels=1), channels=1), _image(channels=1)
    with torch.no_grad():
        wanted = model.net(torch.from_numpy(image)).numpy()
    graph = model.convert(tmp_path)
    predictor = targets.load(graph, 2)
    result = predictor(image)
    assert predictor.inference_precision == "f32"
    assert np.abs(result - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert all(np.array_equal(predictor(image.copy()), result) for _ in range(20))
    assert np.array_equal(targets.load(graph, 2)(image), result)


class Scaled(Rows):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * 2 - 1)


def test_a_network_may_begin_with_a_layer_that_computes_in_place(tmp_path: Path) -> None:
    """On memory that ncnn does not own, such a layer would end the process. The given image must not change."""
    model, image = Network(Scaled()), _image()
    given = image.copy()
    result = targets.load(model.convert(tmp_path), 1)(given)
    assert np.array_equal(given, image)
    assert np.allclose(result, model.answer(image), atol=1e-5)


def test_operators_that_ncnn_lacks_are_named(tmp_path: Path) -> None:
    with pytest.raises(TargetFailed, match="does not support these operators of the network: .*topk"):
        Network(Best()).convert(tmp_path)


def test_all_outputs_are_read_and_the_first_is_postprocessed(tmp_path: Path) -> None:
    select, image = TopK(classes=3, max_detections=5), _image()
    model = Network(Masks(), postprocess=select)
    with torch.no_grad():
        rows, prototypes = (tensor.numpy() for tensor in model.net(torch.from_numpy(image)))
    [packed] = ncnn.package([model.convert(tmp_path / "fp32")], tmp_path / "artifact", model, {})
    selected, second = targets.load(packed, 1)(image)
    assert np.allclose(selected, select(rows), atol=1e-5) and np.allclose(second, prototypes, atol=1e-5)
    manifest = json.loads((tmp_path / "artifact/manifest.json").read_text())
    assert [(each["name"], each["shape"]) for each in manifest["outputs"]] == [
        ("out0", [1, 16, 9]), ("out1", [1, 2, 16, 16]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda outputs: outputs[0], "it has 2 outputs instead of 1"),
        (
            lambda outputs: (outputs[0], outputs[1][:, :1]),
            r"the output is \(1, 2, 16, 16\) instead of \(1, 1, 16, 16\)",
        ),
        (lambda outputs: (outputs[0], outputs[1] + 1), "outputs differ by"),
    ],
)
def test_a_conversion_that_changes_a_further_output_is_refused(
    change: Callable[[Any], Outputs], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = ncnn._trace
    monkeypatch.setattr(ncnn, "_trace", lambda *given: change(trace(*given)))
    with pytest.raises(TargetFailed, match=f"pnnx changed the network: {why}"):
        Network(Masks()).convert(tmp_path)


def test_a_conversion_that_changes_the_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = ncnn._trace
    monkeypatch.setattr(ncnn, "_trace", lambda *given: 1.5 * first(trace(*given)))
    with pytest.raises(TargetFailed, match="outputs differ by"):
        Network(Rows()).convert(tmp_path)


def test_what_pnnx_says_when_it_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pnnx

    monkeypatch.setattr(pnnx, "EXEC_PATH", "false")
    with pytest.raises(TargetFailed, match="pnnx cannot convert this network: exit 1"):
        Network(Rows()).convert(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_weights_are_named(damage: str, tmp_path: Path) -> None:
    graph = Network(Rows()).convert(tmp_path)
    weights = tmp_path / "model.bin"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-4])
    else:
        weights.unlink()
    with pytest.raises(TargetFailed, match="model.bin"):
        targets.load(graph, 1)


def test_a_graph_with_other_outputs_is_refused(tmp_path: Path) -> None:
    graph = Network(Rows()).convert(tmp_path)
    graph.path.write_text(graph.path.read_text().replace(" out0", " other"))
    with pytest.raises(TargetFailed, match="model.param.*other"):  # a request for out0 would crash the process
        targets.load(graph, 1)


def test_fp16_halves_the_weights(tmp_path: Path) -> None:
    rows = Rows()
    model = Network(rows)
    fp32 = model.convert(tmp_path / "fp32")
    fp16 = ncnn.quantize(fp32, model, [], tmp_path / "fp16")
    assert fp16.precision is Precision.fp16 and "INT8" in fp16.scheme
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("fp32", "fp16")]
    assert sizes[0] - sizes[1] == 2 * rows.convolution.weight.numel()
    assert targets.size_bytes(fp16) == sizes[1] + fp16.path.stat().st_size
