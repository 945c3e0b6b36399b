"""Artifacts are held against torch in a fresh process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress import targets
from compress.budget import Check
from compress.config import ExportConfig
from compress.data.dataset import Split
from compress.data.sample import Sample
from compress.errors import TargetFailed
from compress.measurement import contracts
from compress.measurement.contracts import confidence_shift, verify
from compress.tasks import CLASSIFY, DETECT, Outputs
from compress.tasks.mean_ap import Detections
from compress.tasks.outputs import first
from tests.fakes import SIDE, FakeModel, small_model, small_segmenter


@pytest.fixture(scope="module")
def split() -> Split:
    generator = np.random.default_rng(0)
    pixels = [generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(6)]
    return Split("validation", [Sample(each, 0, (SIDE, SIDE)) for each in pixels], SIDE, 3, CLASSIFY)


@pytest.fixture
def artifact(split: Split, tmp_path: Path) -> tuple[FakeModel, Path]:
    model = small_model()
    target = targets.get("onnxruntime")
    fp32 = target.convert(model, tmp_path / "fp32", ExportConfig())
    images = [split.image(i).transpose(2, 0, 1)[None].astype(np.float32) / 255 for i in range(len(split))]
    int8 = target.quantize(fp32, model, images, tmp_path / "int8")
    target.package([fp32, int8], tmp_path / "onnxruntime", model, {})
    return model, tmp_path / "onnxruntime"


def by_name(checks: list[Check]) -> dict[tuple[str, str | None], Check]:
    return {(check.name, check.precision): check for check in checks}


def test_a_good_artifact_keeps_them_all(artifact: tuple[FakeModel, Path], split: Split) -> None:
    model, folder = artifact
    result = by_name(verify(folder, model, split))
    assert set(result) == {
        ("contract.deterministic", "fp32"), ("contract.same_as_torch", "fp32"),
        ("contract.deterministic", "int8"), ("contract.confidence_shift", "int8"),
    }  # fmt: skip
    assert all(check.met and check.target == "onnxruntime" for check in result.values())


def test_what_a_runtime_makes_of_float32_by_itself_is_held_to_its_confidences(split: Split, tmp_path: Path) -> None:
    """OpenVINO computes FP32 files in BF16 where the CPU has it."""
    pytest.importorskip("openvino")
    model = small_model()
    target = targets.get("openvino")
    [packed] = target.package([target.convert(model, tmp_path / "fp32", ExportConfig())], tmp_path / "o", model, {})
    narrow = targets.load(packed, 1).inference_precision != "f32"
    result = by_name(verify(tmp_path / "o", model, split))
    assert (("contract.confidence_shift", "fp32") in result) == narrow
    assert result["contract.same_as_torch", "fp32"].met


def test_every_output_is_compared(split: Split, tmp_path: Path) -> None:
    model, folder = small_segmenter(), tmp_path / "onnxruntime"
    target = targets.get("onnxruntime")
    fp32 = target.convert(model, tmp_path / "fp32", ExportConfig())
    target.package([fp32], folder, model, {})
    result = by_name(verify(folder, model, split))
    assert set(result) == {("contract.deterministic", "fp32"), ("contract.same_as_torch", "fp32")}
    assert all(check.met for check in result.values())
    other = small_segmenter()
    with torch.no_grad():
        other.net.get_submodule("prototypes").bias[:] += 1  # type: ignore[index, operator]
    assert by_name(verify(folder, other, split))["contract.same_as_torch", "fp32"].met is False


def test_the_largest_difference_is_that_of_all_outputs_and_not_a_number_if_one_is_not() -> None:
    assert contracts._largest([0.5, 2.0, 1.0]) == 2.0
    assert np.isnan(contracts._largest([0.5, float("nan"), 1.0]))


def test_scores_do_not_drown_in_pixels() -> None:
    rows = [[100, 100, 600, 600, 0.9, 1], [10, 10, 20, 20, 0.3, 0], [0, 0, 9, 9, 0.001, 0]]
    wanted = np.array([rows], np.float32)
    lost = wanted.copy()
    lost[0, 2] = [50, 50, 60, 60, 0.002, 1]
    assert contracts._nearest_rows(lost, wanted) == 0  # so few points above nothing, another may come in
    swapped, halved, more = wanted[:, ::-1], wanted.copy(), wanted.copy()
    halved[0, 0, 4] = 0.45
    more[0, 1] = [300, 300, 400, 400, 0.8, 1]  # in the place of another
    assert contracts._nearest_rows(swapped, wanted) == 0
    assert contracts._nearest_rows(halved, wanted) == pytest.approx(0.45 / 1.45)
    assert contracts._nearest_rows(more, wanted) > 0.5
    assert contracts._off(halved, wanted) == pytest.approx(0.45 / 1.9)


def test_an_altered_file_is_named(artifact: tuple[FakeModel, Path], split: Split) -> None:
    model, folder = artifact
    path = folder / "int8" / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(TargetFailed, match=r"int8/model.onnx is missing or was changed after the export"):
        verify(folder, model, split)


def test_another_network_in_the_folder_shows(artifact: tuple[FakeModel, Path], split: Split) -> None:
    """Rightly listed in the manifest, but not the network that it is said to be."""
    model, folder = artifact
    for precision in ("fp32", "int8"):
        path = folder / precision / "model.onnx"
        graph = onnx.load(path)
        for weights in graph.graph.initializer:
            values = onnx.numpy_helper.to_array(weights)
            if values.ndim == 4 and values.dtype in (np.float32, np.int8):
                weights.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), weights.name))
        onnx.save(graph, path)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"] = {name: digest for name, digest in manifest["files"].items() if not name.endswith(".onnx")}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    result = by_name(verify(folder, model, split))
    assert result["contract.same_as_torch", "fp32"].met is False


def test_a_manifest_that_promises_another_shape_is_refused(artifact: tuple[FakeModel, Path], split: Split) -> None:
    model, folder = artifact
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["models"]["int8"]["output_shape"] = [1, 7]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TargetFailed, match=r"returns shape \(3,\), its manifest says \(7,\)"):
        verify(folder, model, split)


class Detector(FakeModel):
    """Answers are detections already: x1, y1, x2, y2, score, class."""

    def decode(self, outputs: Outputs) -> list[Detections]:
        return [Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(int)) for rows in first(outputs)]


def shift(before: list[list[float]], after: list[list[float]]) -> float | None:
    model = Detector(nn.Identity(), DETECT)
    return confidence_shift(model, np.array([before], np.float32), np.array([after], np.float32))


def test_confidence_of_detections() -> None:
    box, other = [0, 0, 10, 10], [20, 20, 40, 40]
    before = [[*box, 0.9, 1], [*other, 0.6, 0], [*box, 0.2, 0]]
    assert shift(before, before) == 0
    halved = [[*other, 0.3, 0], [*box, 0.45, 1]]  # mAP would not see it
    assert shift(before, halved) == pytest.approx((0.45 + 0.3) / 2)
    assert shift(before[:1], [[*box, 0.9, 0]]) == 1  # another class: not found again
    assert shift(before[:1], [[5, 5, 15, 15, 0.9, 1]]) == 1  # elsewhere
    assert shift(before[2:], before) is None  # torch was sure of nothing


def test_confidence_of_classifiers() -> None:
    model = small_model()
    logits, softer = np.array([[4.0, 0, 0]]), np.array([[2.0, 0, 0]])
    sure, less = np.exp(4) / (np.exp(4) + 2), np.exp(2) / (np.exp(2) + 2)
    assert confidence_shift(model, logits, softer) == pytest.approx(sure - less)
    probabilities = np.array([[0.7, 0.2, 0.1]])
    assert confidence_shift(model, probabilities, np.array([[0.5, 0.4, 0.1]])) == pytest.approx(0.2)
