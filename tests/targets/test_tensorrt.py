"""TensorRT: files for it, and its use of a GPU, with NumPy fakes of CUDA and TensorRT that check addresses, copy
directions and errors. On a real GPU, end_to_end/test_every_target.py runs the same code."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, load, numpy_helper, save

from compress import targets
from compress.config import ExportConfig
from compress.errors import MissingExtra, TargetFailed
from compress.product import Graph, Precision
from compress.targets import onnxruntime, tensorrt
from compress.targets.bench_kit import runtime_tensorrt
from compress.targets.predictor import LayerMacs
from tests.fakes import Cuda, FakeModel, fake_tensorrt, means


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Graph:
    """An INT8 file with its engine, on a machine whose GPU is `Cuda`."""
    cuda = Cuda()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    monkeypatch.setattr(runtime_tensorrt, "cuda_runtime", lambda: cuda)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt(cuda, means))
    (tmp_path / tensorrt.ENGINE).write_bytes(b"engine")
    return Graph(tmp_path / "model.onnx", "tensorrt", Precision.int8)


def test_an_engine_on_a_gpu_answers_each_image_and_counts_as_measured(graph: Graph) -> None:
    predictor = tensorrt.load(graph, 1)
    images = np.random.default_rng(0).random((3, 2, 4, 4), dtype=np.float32)
    assert np.allclose(predictor(images), np.concatenate([means(image[None]) for image in images]))
    assert (predictor.obtained, predictor.inference_precision) == ("measured", "int8")
    assert predictor.runtime == "tensorrt_rtx 1.7"


def test_an_engine_of_another_gpu_fails_its_target(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt(Cuda(), means, fits=False))
    with pytest.raises(TargetFailed, match="another GPU"):
        tensorrt.load(graph, 1)


def test_an_engine_that_stops_on_the_way_fails_its_target(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = tensorrt.load(graph, 1)
    monkeypatch.setattr(Cuda, "cudaStreamSynchronize", lambda self, stream: 700)  # an illegal address
    with pytest.raises(TargetFailed, match="CUDA error 700"):
        predictor(np.zeros((1, 2, 4, 4), np.float32))


def test_an_older_gpu_is_left_alone(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert not tensorrt.gpu_is_present()


def test_an_engine_is_what_the_runtime_needs(tmp_path: Path) -> None:
    graph = Graph(tmp_path / "model.onnx", "tensorrt", Precision.int8)
    graph.path.write_bytes(bytes(10))
    assert (targets.size_bytes(graph), targets.source_bytes(graph), graph.engine) == (10, 10, None)
    (tmp_path / "model.engine").write_bytes(bytes(30))
    assert (targets.size_bytes(graph), targets.source_bytes(graph)) == (30, 10)
    assert graph.engine == tmp_path / "model.engine"


def q_dq(tmp_path: Path) -> Graph:
    """Three products. One has Q/DQ pairs on both operands, one on its activations only, one on its weights only."""
    scale, zero = (
        numpy_helper.from_array(np.array(0.5, np.float32), "s"),
        numpy_helper.from_array(np.array(0, np.int8), "z"),
    )
    weights = [numpy_helper.from_array(np.ones((4, 4), np.int8), name) for name in ("w1", "w2")]
    float_weights = numpy_helper.from_array(np.eye(4, dtype=np.float32), "float")
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["w1", "s", "z"], ["one"]),
        helper.make_node("DequantizeLinear", ["w2", "s", "z"], ["two"]),
        helper.make_node("MatMul", ["x", "one"], ["inner"], name="/first/MatMul"),
        helper.make_node("MatMul", ["x", "float"], ["other"], name="/float/MatMul"),
        helper.make_node("Add", ["inner", "other"], ["sum"]),
        helper.make_node("MatMul", ["sum", "two"], ["output0"], name="/last/MatMul"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 4]) for name in ("images", "output0")]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], [scale, zero, float_weights, *weights])
    path = tmp_path / "model.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return Graph(path, "tensorrt", Precision.int8, exclusions={"last": "because"})


def test_a_product_runs_in_int8_where_both_operands_are_dequantized(tmp_path: Path) -> None:
    assert tensorrt.layers(q_dq(tmp_path)) == [
        LayerMacs("/first/MatMul", 3 * 4 * 4, int8=True),
        LayerMacs("/float/MatMul", 3 * 4 * 4, int8=False),
        LayerMacs("/last/MatMul", 3 * 4 * 4, int8=False),
    ]


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_a_gpu_int8_is_emulated_and_float_shares_its_evaluation(
    without_gpu: None, model: FakeModel, tmp_path: Path
) -> None:
    graph = tensorrt.convert(model, tmp_path, ExportConfig())
    exact = tensorrt.load(graph, 1)
    assert (exact.obtained, exact.inference_precision) == ("emulated", "f32")
    assert exact.evaluator == onnxruntime.load(graph, 1).evaluator
    int8 = tensorrt.load(replace(graph, precision=Precision.int8), 1)
    assert int8.evaluator == f"{int8.runtime} int8" and int8.runtime.endswith("in place of tensorrt")
    image = model.example_input().numpy()
    assert np.allclose(exact(image), model.answer(image), atol=1e-5)


def test_an_emulated_pair_is_computed_as_written(without_gpu: None, tmp_path: Path) -> None:
    graph = q_dq(tmp_path)
    image = np.array([[0.3, -0.8, 1.2, 99.0]] * 3, np.float32)
    steps = np.clip(np.round(image / 0.5), -128, 127) * 0.5  # what is too large is cut off
    half = np.full((4, 4), 0.5)
    assert np.allclose(tensorrt.load(graph, 1).run(image), (steps @ half + steps) @ half)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")
def test_fp16_halves_weights_and_keeps_float32_at_both_ends(
    without_gpu: None, model: FakeModel, tmp_path: Path
) -> None:
    fp32 = tensorrt.convert(model, tmp_path / "fp32", ExportConfig())
    fp16 = tensorrt.half(fp32, model, tmp_path / "fp16")
    graph = load(fp16.path).graph
    assert [end.type.tensor_type.elem_type for end in (*graph.input, *graph.output)] == [TensorProto.FLOAT] * 2
    assert {weights.data_type for weights in graph.initializer if len(weights.dims) > 1} == {TensorProto.FLOAT16}
    image = model.example_input().numpy()
    assert np.abs(tensorrt.load(fp16, 1)(image) - model.answer(image)).max() < 1e-2


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")
def test_a_file_that_the_parser_rejects_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(TargetFailed, match=r"TensorRT rejects .*model\.onnx: .+"):
        tensorrt.parse(path)


def test_an_absent_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"tensorrt-rtx-cu13.*\[tensorrt\]"):
        tensorrt.require()


@pytest.mark.parametrize(("precision", "types"), [(Precision.int8, "--fp16 --int8"), (Precision.fp16, "--fp16")])
@pytest.mark.parametrize("strongly_typed", [True, False])
def test_the_build_script_lets_the_file_set_the_types_where_trtexec_can(
    precision: Precision, types: str, strongly_typed: bool, tmp_path: Path
) -> None:
    """Run by sh with a `trtexec` that writes its arguments to a file."""
    tensorrt._write_build_script(Graph(tmp_path / "model.onnx", "tensorrt", precision))
    (tmp_path / "bin").mkdir()
    trtexec = tmp_path / "bin" / "trtexec"
    answers = "echo --stronglyTyped" if strongly_typed else "echo nothing"
    trtexec.write_text(f'#!/bin/sh\n[ "$1" = --help ] && {answers} || echo "$@" > asked\n')
    trtexec.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    subprocess.run([str(tmp_path / "build.sh")], check=True, env=environment, cwd="/")
    wanted = "--stronglyTyped" if strongly_typed else types
    assert (tmp_path / "asked").read_text() == f"--onnx=model.onnx --saveEngine=model.plan {wanted}\n"
