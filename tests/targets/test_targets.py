"""A small CNN in every target: convert, quantize, package, load."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from compress import targets
from compress.config import ExportConfig
from compress.errors import TargetFailed, UserError
from compress.product import Graph, Precision
from compress.targets import calibration, onnx_graph, onnxruntime, quantization_exclusions, tensorrt
from tests.fakes import FakeModel, small_classifier

SIDE = 32
PACKAGES = {  # that a target needs
    "openvino": ("openvino", "nncf"),
    "tensorrt": ("tensorrt_rtx",),
    "ncnn": ("ncnn", "pnnx"),
    "litert": ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
}


def small_model(**options: Any) -> FakeModel:
    return FakeModel(small_classifier(), imgsz=SIDE, exclusions={"6": "the last layer"}, **options)


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
    small = target.quantize(fp32, model, images, tmp_path / "small")
    assert small.precision is (Precision.fp16 if name == "ncnn" else Precision.int8)
    if small.precision is Precision.int8:
        assert small.calibration["images"] == 8
        assert small.exclusions["6"] == "the last layer"

    packed = target.package([fp32, small], tmp_path / "artifact", model, {"recipe": "r"})
    batch = np.concatenate(images)
    wanted = model.answer(batch)
    for graph in packed:
        predictor = targets.load(graph, 1)
        found = predictor(batch)
        assert found.shape == wanted.shape and found.dtype == np.float32
        limit = 0.1 if graph.precision is Precision.int8 else 0.02
        assert np.abs(found - wanted).max() < limit * np.abs(wanted).max()
        share = predictor.int8_mac_share()
        assert share.outside_kept == (1.0 if graph.precision is Precision.int8 else 0.0)
        assert share.overall <= share.outside_kept

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


def test_macs_of_an_onnx_graph(model: FakeModel, tmp_path: Path) -> None:
    path = onnx_graph.export(model, tmp_path / "model.onnx", 17)
    assert sum(onnx_graph.count_macs(path).values()) == 16 * 16 * 16 * 27 + 8 * 8 * 32 * 16 * 9 + 32 * 3


def test_metadata_is_embedded(model: FakeModel, tmp_path: Path) -> None:
    path = onnx_graph.export(model, tmp_path / "model.onnx", 17)
    assert {entry.key: entry.value for entry in onnx_graph.read(path).metadata_props} == model.metadata()


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


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")
def test_openvino_runs_where_onednn_is_kept_from_newer_instructions(model: FakeModel, tmp_path: Path) -> None:
    graph = targets.get("openvino").convert(model, tmp_path, ExportConfig())
    # In a separate process, because oneDNN reads the limit only once.
    code = f"""
import numpy
from pathlib import Path
from compress.product import Graph, Precision
from compress.tasks import CLASSIFY, Task
from compress.targets import openvino
from compress.targets import quantization_exclusions
from tests.fakes import FakeModel, small_classifier
predict = openvino.load(Graph(Path({str(graph.path)!r}), "openvino", Precision.fp32), 1)
image = numpy.zeros((1, 3, {SIDE}, {SIDE}), numpy.float32)
print(predict.inference_precision, *predict(image)[0])
"""
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    precision, *found = run.stdout.split()
    assert precision == "f32"
    answer = model.answer(np.zeros((1, 3, SIDE, SIDE), np.float32))[0]
    np.testing.assert_allclose(np.array(found, np.float32), answer, atol=1e-5)


def test_an_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="onnxruntime, openvino, tensorrt, ncnn"):
        targets.get("abacus")


def test_module_paths_are_read_from_node_names() -> None:
    assert quantization_exclusions.module_path("/model.23/cv3.0/cv3.0.1/conv/Conv") == "model.23.cv3.0.1.conv"
    assert quantization_exclusions.module_path("/model.10/m/m.0/attn/MatMul") == "model.10.m.0.attn"


def test_what_follows_the_last_quantized_layer_stays_float() -> None:
    chain = [
        quantization_exclusions.Node("/a/Conv", (), True),
        quantization_exclusions.Node("/a/Relu", ("/a/Conv",), False),
        quantization_exclusions.Node("/b/Conv", ("/a/Relu",), True),
        quantization_exclusions.Node("/Sigmoid", ("/b/Conv",), False),
    ]
    assert quantization_exclusions.kept_nodes(chain, {"b": "because"}) == {
        "/b/Conv": "because",
        "/a/Relu": quantization_exclusions.TAIL,
        "/Sigmoid": quantization_exclusions.TAIL,
    }


def test_the_first_layers_and_what_hangs_on_them_alone() -> None:
    graph = [
        quantization_exclusions.Node("/a/Conv", (), True),
        quantization_exclusions.Node("/a/Relu", ("/a/Conv",), False),
        quantization_exclusions.Node("/b/Conv", ("/a/Relu",), True),
        quantization_exclusions.Node("/Add", ("/a/Relu", "/b/Conv"), False),
        quantization_exclusions.Node("/c/Conv", ("/Add",), True),
        quantization_exclusions.Node("/Concat", ("/b/Conv", "/c/Conv"), False),
    ]
    assert quantization_exclusions.first_layers(graph, 0) == {}
    assert set(quantization_exclusions.first_layers(graph, 1)) == {"/a/Conv", "/a/Relu"}
    assert set(quantization_exclusions.first_layers(graph, 2)) == {"/a/Conv", "/a/Relu", "/b/Conv", "/Add"}


def test_a_scheme_may_leave_the_first_layers_in_float(
    model: FakeModel, images: list[np.ndarray], tmp_path: Path
) -> None:
    target = targets.get("onnxruntime")
    fp32 = target.convert(model, tmp_path, ExportConfig())
    [scheme] = [replace(each, options={"float_layers": 1}) for each in target.SCHEMES if "float_layers" in each.options]
    made = target.quantize(fp32, model, images, tmp_path / "int8", scheme)
    assert made.exclusions["0"] == quantization_exclusions.FIRST
    macs = {layer.name: layer.int8 for layer in onnxruntime.layers(made)}
    assert macs == {"/0/Conv": False, "/2/Conv": True, "/6/Gemm": False}


def test_ranges_are_means_over_images_of_an_images_extremes(model: FakeModel, tmp_path: Path) -> None:
    graph = onnx_graph.read(targets.get("onnxruntime").convert(model, tmp_path, ExportConfig()).path)
    low, high = np.full((1, 3, SIDE, SIDE), -1, np.float32), np.full((1, 3, SIDE, SIDE), 3, np.float32)
    low[0, 0, 0, 0] = 0.5
    found = calibration.tensor_ranges(graph, [low, high])
    assert found[onnx_graph.INPUT] == (1.0, 1.75)
    assert np.allclose(found[onnx_graph.OUTPUT], np.mean([_extremes(model.answer(each)) for each in (low, high)], 0))


def test_images_are_looked_at_once(model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = onnx_graph.read(targets.get("onnxruntime").convert(model, tmp_path, ExportConfig()).path)
    generator = np.random.default_rng(7)
    images = [generator.random((1, 3, SIDE, SIDE), dtype=np.float32) for _ in range(2)]
    looks = []
    open_session = onnx_graph.open_session
    monkeypatch.setattr(calibration, "open_session", lambda *given: looks.append(given) or open_session(*given))
    mean = calibration.tensor_ranges(graph, images)
    wide = calibration.tensor_ranges(graph, images, calibration.EXTREMES)
    assert len(looks) == 1 and all(wide[name][1] >= mean[name][1] for name in mean)
    assert wide[onnx_graph.INPUT][1] == max(image.max() for image in images)
    calibration.tensor_ranges(graph, images[:1])
    assert len(looks) == 2


def test_what_is_not_finite_is_refused(model: FakeModel, tmp_path: Path) -> None:
    fp32 = targets.get("onnxruntime").convert(model, tmp_path, ExportConfig())
    image = np.zeros((1, 3, SIDE, SIDE), np.float32)
    broken = np.full_like(image, np.nan)
    with pytest.raises(TargetFailed, match="calibration image 1 contains NaN or infinity"):
        targets.get("onnxruntime").quantize(fp32, model, [image, broken], tmp_path / "int8")
    with pytest.raises(TargetFailed, match="no calibration images"):
        targets.get("onnxruntime").quantize(fp32, model, [], tmp_path / "int8")


def _extremes(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def test_denormals_are_rounded_to_zero(tmp_path: Path) -> None:
    """In a separate process: ONNX Runtime reads the entry from the first session of a process only."""
    nodes = [helper.make_node("Mul", ["x", "y"], ["z"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xyz"]
    inner, opset = helper.make_graph(nodes, "g", values[:2], values[2:]), helper.make_opsetid("", 17)
    graph = helper.make_model(inner, ir_version=8, opset_imports=[opset])
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    code = (
        "import sys, numpy as np; from pathlib import Path; from compress.targets import onnx_graph as g;"
        "s = g.open_session(Path(sys.argv[1]), g.session_options(1)); small = np.full(1, 1e-20, np.float32);"
        "print(s.run(None, {'x': small, 'y': small})[0][0])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.onnx")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "0.0"


def test_an_engine_is_what_the_runtime_needs(tmp_path: Path) -> None:
    graph = Graph(tmp_path / "model.onnx", "tensorrt", Precision.int8)
    graph.path.write_bytes(bytes(10))
    assert (targets.size_bytes(graph), targets.source_bytes(graph), graph.engine) == (10, 10, None)
    (tmp_path / "model.engine").write_bytes(bytes(30))
    assert (targets.size_bytes(graph), targets.source_bytes(graph)) == (30, 10)
    assert graph.engine == tmp_path / "model.engine"
