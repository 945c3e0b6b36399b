"""The bench kit's use of ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from compress.targets import onnx_graph
from compress.targets.bench_kit import runtime_onnxruntime
from tests.fakes import FakeModel, small_segmenter


@pytest.mark.parametrize(("folder", "precision"), [("fp32", "f32"), ("int8", "int8")])
def test_a_file_answers_as_torch_does_and_its_folder_says_the_precision(
    folder: str, precision: str, model: FakeModel, tmp_path: Path
) -> None:
    path = onnx_graph.export(model, tmp_path / folder / "model.onnx", 17)
    predict, runtime, result = runtime_onnxruntime.load(path, 1)
    image = model.example_input().numpy()
    np.testing.assert_allclose(predict(image), model.answer(image), atol=1e-5)
    assert (runtime, result) == (f"onnxruntime {onnxruntime.__version__}", precision)


def test_several_outputs_are_a_tuple_in_the_order_of_the_file(tmp_path: Path) -> None:
    model = small_segmenter()
    path, image = onnx_graph.export(model, tmp_path / "model.onnx", 17), model.example_input().numpy()
    result = runtime_onnxruntime.load(path, 1)[0](image)
    assert len(result) == 2
    for output, expected in zip(result, model.answers(image), strict=True):
        np.testing.assert_allclose(output, expected, atol=1e-5)


@pytest.mark.parametrize(("threads", "asked"), [(3, 3), (None, 0)])  # 0: chosen by ONNX Runtime
def test_threads_are_handed_on_and_denormals_rounded(
    threads: int | None, asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[onnxruntime.SessionOptions] = []

    class Session:
        def __init__(self, path: str, options: onnxruntime.SessionOptions, providers: list[str]) -> None:
            seen.append(options)
            assert providers == ["CPUExecutionProvider"]

        def get_inputs(self) -> list[onnxruntime.NodeArg]:
            return [onnxruntime.NodeArg]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime.NodeArg, "name", "images")
    runtime_onnxruntime.load(tmp_path / "fp32" / "model.onnx", threads)
    assert seen[0].intra_op_num_threads == asked
    assert seen[0].get_session_config_entry("session.set_denormal_as_zero") == "1"
