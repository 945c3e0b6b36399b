"""ONNX Runtime: schemes, and the MACs that run in INT8."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from compress import targets
from compress.config import ExportConfig
from compress.errors import TargetFailed
from compress.product import Graph, Precision
from compress.targets import calibration, onnxruntime, quantization_exclusions
from tests.fakes import SIDE, FakeModel, small_model

MACS = {"/0/Conv": 16 * 16 * 16 * 27, "/2/Conv": 8 * 8 * 32 * 16 * 9, "/6/Gemm": 32 * 3}


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return onnxruntime.convert(small_model(), tmp_path_factory.mktemp("fp32"), ExportConfig())


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


def test_layers_of_a_float_file_run_in_float(fp32: Graph) -> None:
    result = onnxruntime.layers(fp32)
    assert {layer.name: layer.macs for layer in result} == MACS
    assert not any(layer.int8 for layer in result)


def test_modules_to_keep_join_those_of_the_model(
    fp32: Graph, model: FakeModel, images: list[np.ndarray], tmp_path: Path
) -> None:
    made = onnxruntime.quantize(fp32, model, images, tmp_path, kept={"2": "too sensitive"})
    assert made.exclusions["2"] == "too sensitive" and made.exclusions["6"] == "the last layer"
    computed = {layer.name: layer.int8 for layer in onnxruntime.layers(made)}
    assert computed == {"/0/Conv": True, "/2/Conv": False, "/6/Gemm": False}


def test_the_scheme_of_extremes_spans_the_largest_image(
    fp32: Graph, model: FakeModel, images: list[np.ndarray], tmp_path: Path
) -> None:
    """The input's scale is its range in 255 steps. With means, that range is narrower."""
    given = [0.1 * images[0], images[1]]
    scales: dict[str, float] = {}
    for scheme in (onnxruntime.SCHEMES[0], *(each for each in onnxruntime.SCHEMES if "ranges" in each.options)):
        made = onnxruntime.quantize(fp32, model, given, tmp_path / str(len(scales)), scheme)
        graph = onnx.load(made.path).graph
        values = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "images")
        scales[made.calibration["method"]] = float(values[first.input[1]])
    high = [float(image.max()) for image in given]
    assert scales[calibration.METHODS[calibration.EXTREMES]] == pytest.approx(max(high) / 255)
    assert scales[calibration.METHODS[calibration.MEAN]] == pytest.approx(sum(high) / 2 / 255)


def test_a_quantizer_that_fails_names_the_file(
    fp32: Graph, model: FakeModel, images: list[np.ndarray], tmp_path: Path
) -> None:
    odd = replace(onnxruntime.SCHEMES[0], options={"no_such_option": True})
    with pytest.raises(TargetFailed, match=r"ONNX Runtime cannot quantize .*model\.onnx: .*no_such_option"):
        onnxruntime.quantize(fp32, model, images, tmp_path, odd)


def test_warnings_of_the_quantizer_alone_are_lowered(caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()

    def record(path: str, level: int) -> logging.LogRecord:
        return root.makeRecord("root", level, path, 1, "%s", (path,), None)

    before = list(root.filters)
    with onnxruntime._quiet():
        for path, level in (("onnxruntime/q.py", 30), ("onnxruntime/q.py", 40), ("ours.py", 30)):
            root.handle(record(path, level))
    assert [(each.pathname, each.levelno) for each in caplog.records] == [("onnxruntime/q.py", 40), ("ours.py", 30)]
    assert root.filters == before


def test_the_input_may_have_any_name(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, SIDE, SIDE]) for name in ("in", "out")]
    graph = helper.make_graph([helper.make_node("Neg", ["in"], ["out"])], "graph", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    predict = onnxruntime.load(Graph(tmp_path / "model.onnx", "onnxruntime", Precision.fp32), 1)
    image = np.random.default_rng(0).random((2, 3, SIDE, SIDE), dtype=np.float32)
    assert np.array_equal(predict(image), -image)
