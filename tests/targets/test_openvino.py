"""OpenVINO: precisions, MACs of operations, and how the package is kept quiet."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, save
from torch import nn

from compress import targets
from compress.config import ExportConfig
from compress.errors import MissingExtra, TargetFailed
from compress.measurement import flops
from compress.targets import onnx_graph, openvino, openvino_operators
from tests.fakes import SIDE, FakeModel, small_model
from tests.onnx_operators import First, exported, single


def macs_of(read: Any) -> int:
    return sum(onnx_graph.products(openvino_operators.to_onnx(read)).values())


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
    precision, *result = run.stdout.split()
    assert precision == "f32"
    answer = model.answer(np.zeros((1, 3, SIDE, SIDE), np.float32))[0]
    np.testing.assert_allclose(np.array(result, np.float32), answer, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "Linear"])
def test_openvino_counts_the_same(kind: str, tmp_path: Path) -> None:
    net: nn.Module = nn.Linear(8, 4) if kind == "Linear" else First(getattr(nn, kind)(8, 4, bidirectional=True))
    exported(net, torch.rand(5, 1, 8), tmp_path)
    converted = openvino._read(openvino.package_without_telemetry(), next(tmp_path.glob("*.onnx")))
    assert macs_of(converted) == flops.count(net, torch.rand(5, 1, 8)).macs


def test_openvino_counts_einsum(tmp_path: Path) -> None:
    made = single("Einsum", {"a": (2, 3, 5), "b": (2, 4, 5)}, (2, 3, 4), equation="bqd,bkd->bqk")
    save(made, tmp_path / "net.onnx")
    converted = openvino._read(openvino.package_without_telemetry(), tmp_path / "net.onnx")
    assert macs_of(converted) == 2 * 3 * 4 * 5


@pytest.mark.parametrize(
    ("graph", "macs"),
    [
        (
            single("Conv", {"x": (1, 4, 8, 8), "w": np.ones((6, 2, 3, 3), np.float32)}, (1, 6, 6, 6), group=2),
            6 * 36 * 2 * 9,
        ),
        (
            single(
                "ConvTranspose", {"x": (1, 4, 5, 5), "w": np.ones((4, 3, 2, 2), np.float32)}, (1, 6, 10, 10),
                group=2, strides=[2, 2],
            ),
            25 * 4 * 3 * 4,
        ),
        (single("Gemm", {"x": (8, 3), "w": np.ones((8, 5), np.float32)}, (3, 5), transA=1), 3 * 8 * 5),
        (single("Relu", {"x": (3, 5)}, (3, 5)), 0),
    ],
    ids=["grouped", "transposed", "first operand transposed", "no products"],
)  # fmt: skip
def test_macs_by_hand(graph: ModelProto, macs: int, tmp_path: Path) -> None:
    graph.opset_import[0].version = 17
    save(graph, tmp_path / "net.onnx")
    read = openvino._read(openvino.package_without_telemetry(), tmp_path / "net.onnx")
    assert macs_of(read) == macs


def test_a_convolution_with_a_bias_has_one_name() -> None:
    assert openvino.onnx_name("/model.0/conv/Conv/WithoutBiases") == "/model.0/conv/Conv"
    assert openvino.onnx_name("/model.0/WithoutBiases/Conv") == "/model.0/WithoutBiases/Conv"


@pytest.mark.parametrize("absent", ["openvino", "nncf"])
def test_an_absent_package_is_named(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == absent else "present")
    with pytest.raises(MissingExtra, match=absent):
        openvino.require()


def test_nncf_is_quiet_for_a_while_only(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    import nncf  # noqa: F401  (creates its logger)

    logger = logging.getLogger("nncf")
    before = (list(logger.handlers), logger.propagate, logger.level)
    with openvino._quiet():
        print("a progress bar")
        logger.info("an advertisement")
        logger.warning("a warning")
    assert (list(logger.handlers), logger.propagate, logger.level) == before
    assert capsys.readouterr().out == ""
    assert [record.getMessage() for record in caplog.records] == ["a warning"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs sigaltstack of Linux")
def test_the_alternate_signal_stack_is_put_back() -> None:
    libc = ctypes.CDLL(None)

    def current() -> tuple[int | None, int]:
        stack = openvino._SignalStack()
        libc.sigaltstack(None, ctypes.byref(stack))
        return stack.pointer, stack.size

    before, memory = current(), ctypes.create_string_buffer(65536)
    with openvino._own_signal_stack():
        replaced = openvino._SignalStack(ctypes.addressof(memory), 0, len(memory))
        assert libc.sigaltstack(ctypes.byref(replaced), None) == 0
        assert current() == (ctypes.addressof(memory), 65536)
    assert current() == before


def test_the_package_cannot_import_its_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    openvino.package_without_telemetry()
    with pytest.raises(ImportError):
        importlib.import_module("openvino_telemetry")


@pytest.mark.parametrize(("exact", "isa", "wanted"), [(False, None, None), (True, None, "f32"), (False, "AVX2", "f32")])
def test_float32_is_asked_for_where_it_must_be(
    exact: bool, isa: str | None, wanted: str | None, model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    if isa is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    asked: list[dict[str, object]] = []
    package = openvino.package_without_telemetry()
    compiling = package.Core.compile_model

    def compile_model(core: object, source: object, device: str, settings: dict[str, object]) -> object:
        asked.append(settings)
        return compiling(core, source, device, settings)

    graph = openvino.convert(model, tmp_path, ExportConfig())
    monkeypatch.setattr(package.Core, "compile_model", compile_model)
    openvino.load(graph, 1, exact=exact)
    assert [settings.get("INFERENCE_PRECISION_HINT") for settings in asked] == [wanted]


def test_a_failed_conversion_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(model: object, path: Path, opset: int) -> Path:
        path.write_bytes(b"no graph")
        return path

    monkeypatch.setattr(onnx_graph, "export", export)
    root = logging.getLogger()
    before = root.level, root.filters[:], root.handlers[:]
    with pytest.raises(TargetFailed, match="OpenVINO cannot convert this network"):
        openvino.convert(small_model(), tmp_path, ExportConfig())
    assert (root.level, root.filters, root.handlers) == before
