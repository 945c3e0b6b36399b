"""Every target: a small CNN is converted, quantized, packaged, loaded and timed by its bench kit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compress import targets
from compress.config import ExportConfig
from compress.errors import TargetFailed, UserError
from compress.product import Graph, Precision
from compress.targets import saturation, tensorrt
from compress.targets.quantization_exclusions import module_path
from compress.targets.scheme import Scheme
from compress.tasks.outputs import arrays
from tests.fakes import SIDE, FakeModel, small_model, small_segmenter

PACKAGES = {  # that a target needs
    "openvino": ("openvino", "nncf"),
    "tensorrt": ("tensorrt_rtx",),
    "ncnn": ("ncnn", "pnnx"),
    "litert": ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
}


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return small_model()


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.random((1, 3, SIDE, SIDE), dtype=np.float32) for _ in range(8)]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tensorrt", "ncnn", "litert"])
def test_a_model_becomes_an_artifact(name: str, model: FakeModel, images: list[np.ndarray], tmp_path: Path) -> None:
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    target = targets.get(name)
    fp32 = target.convert(model, tmp_path / "fp32", ExportConfig())
    small = target.quantize(fp32, model, images, tmp_path / "small", scheme(name))
    assert small.precision is (Precision.fp16 if name == "ncnn" else Precision.int8)
    if small.precision is Precision.int8:
        assert small.calibration["images"] == 8
        assert small.exclusions["6"] == "the last layer"

    check_artifact(fp32, small, model, images, tmp_path)
    manifest = json.loads((tmp_path / "artifact/manifest.json").read_text())
    assert len(manifest["outputs"]) == 1
    assert not any("other_outputs" in entry for entry in manifest["models"].values())


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tensorrt", "ncnn", "litert"])
def test_a_model_with_two_outputs_becomes_an_artifact(name: str, images: list[np.ndarray], tmp_path: Path) -> None:
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    model, target = small_segmenter(), targets.get(name)
    fp32 = target.convert(model, tmp_path / "fp32", ExportConfig())
    small = target.quantize(fp32, model, images, tmp_path / "small", scheme(name))
    check_artifact(fp32, small, model, images, tmp_path)
    manifest = json.loads((tmp_path / "artifact/manifest.json").read_text())
    prefix = "out" if name == "ncnn" else "output"
    assert [(output["name"], output["shape"]) for output in manifest["outputs"]] == [
        (f"{prefix}0", [1, 16, 9]), (f"{prefix}1", [1, 2, 16, 16]),
    ]  # fmt: skip


def scheme(name: str) -> Scheme:
    """The first of a target that this CPU computes without overflow."""
    offered, saturates = targets.get(name).SCHEMES, saturation.saturates(name)
    return next((each for each in offered if saturates and each.saturation_safe), offered[0])


def check_artifact(fp32: Graph, small: Graph, model: FakeModel, images: list[np.ndarray], tmp_path: Path) -> None:
    """Packages both graphs, compares them with torch and runs the bench kit."""
    name, target = fp32.target, targets.get(fp32.target)
    packed = target.package([fp32, small], tmp_path / "artifact", model, {"recipe": "r"})
    batch = np.concatenate(images)
    wanted = arrays(model.answers(batch))
    for graph in packed:
        predictor = targets.load(graph, 1)
        limit = 0.1 if graph.precision is Precision.int8 else 0.02
        for result, expected in zip(arrays(predictor(batch)), wanted, strict=True):
            assert result.shape == expected.shape and result.dtype == np.float32
            assert np.abs(result - expected).max() < limit * np.abs(expected).max()
        computed = {layer.name.removesuffix("/WithoutBiases"): layer.int8 for layer in predictor.layers()}
        quantized = [int8 for node, int8 in computed.items() if module_path(node) not in small.exclusions]
        assert set(quantized) <= {graph.precision is Precision.int8}
        assert (predictor.int8_mac_share() > 0) == (graph.precision is Precision.int8)

    manifest = json.loads((tmp_path / "artifact/manifest.json").read_text())
    assert manifest["kept_float"] == [[layer, why] for layer, why in small.exclusions.items()]
    for file in manifest["files"]:
        assert (tmp_path / "artifact" / file).is_file()
    if name != "tensorrt" or tensorrt.gpu_is_present():  # its kit needs a GPU
        kit = [
            sys.executable,
            "bench.py",
            small.precision.value,
            "--device",
            "test",
            "--threads",
            "1",
            "--seconds",
            "0.05",
        ]
        subprocess.run(kit, cwd=tmp_path / "artifact", check=True, capture_output=True)
        bench = json.loads((tmp_path / "artifact/bench.json").read_text())
        assert bench["outputs_match"] and bench["files"] and bench["latency_ms"]["median"] > 0


@pytest.mark.parametrize(
    ("name", "suffix"), [("onnxruntime", "onnx"), ("openvino", "xml"), ("ncnn", "param"), ("litert", "tflite")]
)
def test_a_damaged_file_is_named(name: str, suffix: str, tmp_path: Path) -> None:
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(b"not a graph")
    with pytest.raises(TargetFailed, match=path.name):
        targets.load(Graph(path, name, Precision.fp32), 1)


def test_an_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="onnxruntime, openvino, tensorrt, ncnn"):
        targets.get("abacus")
