"""The bench kit's use of OpenVINO."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from compress.config import ExportConfig
from tests.fakes import FakeModel, small_segmenter

pytest.importorskip("openvino")

from compress.targets import openvino
from compress.targets.bench_kit import runtime_openvino


def settings(monkeypatch: pytest.MonkeyPatch, threads: int | None, environment: dict[str, str]) -> dict[str, object]:
    """The settings that OpenVINO is given, on a CPU where it selects BF16."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked: list[dict[str, object]] = []

    def compile_model(path: str, device: str, settings: dict[str, object]) -> SimpleNamespace:
        asked.append(settings)
        said = SimpleNamespace(to_string=lambda: settings.get("INFERENCE_PRECISION_HINT", "bf16"))
        return SimpleNamespace(get_property=lambda name: said)

    core = SimpleNamespace(compile_model=compile_model)
    monkeypatch.setattr(runtime_openvino, "openvino", SimpleNamespace(Core=lambda: core, __version__="2026.0"))
    _, runtime, precision = runtime_openvino.load(Path("fp32_openvino_model", "model.xml"), threads)
    assert runtime == "openvino 2026.0"
    return {**asked[0], "reported": precision}


def test_openvino_selects_threads_and_precision_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, None, {}) == {"PERFORMANCE_HINT": "LATENCY", "reported": "bf16"}
    assert settings(monkeypatch, 2, {})["INFERENCE_NUM_THREADS"] == 2


@pytest.mark.parametrize(
    ("environment", "precision"),
    [
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "f32"),
        ({"ONEDNN_MAX_CPU_ISA": "avx512_core"}, "f32"),
        ({"DNNL_MAX_CPU_ISA": "AVX"}, "f32"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "bf16"),
        ({"ONEDNN_MAX_CPU_ISA": "ALL", "DNNL_MAX_CPU_ISA": "AVX2"}, "bf16"),  # the older name counts less
    ],
)
def test_float32_is_set_where_onednn_may_not_use_bfloat16(
    environment: dict[str, str], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings(monkeypatch, 1, environment)["reported"] == precision


def test_a_file_answers_as_torch_does(model: FakeModel, tmp_path: Path) -> None:
    graph = openvino.convert(model, tmp_path / "int8_openvino_model", ExportConfig())
    predict, _, precision = runtime_openvino.load(graph.path, 1)
    image = model.example_input().numpy()
    first = predict(image)
    answer = model.answer(image)
    assert np.abs(first - answer).max() < 0.02 * np.abs(answer).max()  # BF16 on some CPUs
    assert precision == "int8"  # by the name of the folder


def test_several_outputs_are_a_tuple_of_copies_in_the_order_of_the_file(tmp_path: Path) -> None:
    model = small_segmenter()
    graph = openvino.convert(model, tmp_path, ExportConfig())
    predict, _, _ = runtime_openvino.load(graph.path, 1)
    image = model.example_input().numpy()
    result = predict(image)
    predict(np.zeros_like(image))
    assert len(result) == 2
    for output, expected in zip(result, model.answers(image), strict=True):
        assert np.abs(output - expected).max() < 0.02 * np.abs(expected).max()  # BF16 on some CPUs
