"""The bench kit's use of ncnn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ncnn = pytest.importorskip("ncnn")
runtime_ncnn = pytest.importorskip("compress.targets.bench_kit.runtime_ncnn")

# A 1x1 convolution of two channels without a bias.
PARAM = """7767517
2 2
Input       in0  0 1 in0
Convolution conv 1 1 in0 out0 0=2 1=1 5=0 6=4
"""
WEIGHTS = np.array([[1, 2], [3, 5]], np.float32)


def written(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.param").write_text(PARAM)
    (folder / "model.bin").write_bytes(bytes(4) + WEIGHTS.tobytes())  # 0: float32
    return folder / "model.param"


def test_several_outputs_are_a_tuple(tmp_path: Path) -> None:
    path = written(tmp_path / "fp32")
    layers = ["Input in0 0 1 in0", "Split s 1 2 in0 a b", "ReLU relu 1 1 a out1", "AbsVal abs 1 1 b out0"]
    path.write_text("7767517\n4 5\n" + "\n".join(layers) + "\n")
    image = np.array([[[[1, -2], [-3, 4]]]], np.float32)
    first, second = runtime_ncnn.load(path, 1)[0](image)
    assert np.array_equal(first, np.abs(image)) and np.array_equal(second, np.maximum(image, 0))


def test_the_batch_axis_is_taken_off_and_put_back(tmp_path: Path) -> None:
    predict, runtime, precision = runtime_ncnn.load(written(tmp_path / "fp32"), 1)
    image = np.random.default_rng(0).random((1, 2, 3, 3), dtype=np.float32)
    assert np.allclose(predict(image), np.einsum("oi,bihw->bohw", WEIGHTS, image))
    assert (runtime, precision) == (f"ncnn {ncnn.__version__}", "f32")


@pytest.mark.parametrize(
    ("folder", "has_half", "precision"),
    [("fp16_ncnn_model", True, "f16"), ("fp16_ncnn_model", False, "f32"), ("fp32_ncnn_model", True, "f32")],
)
def test_float16_needs_the_file_and_the_cpu(
    folder: str, has_half: bool, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ncnn, "cpu_support_arm_asimdhp", lambda: has_half)
    assert runtime_ncnn.load(written(tmp_path / folder), None)[2] == precision


def test_a_missing_file_ends_the_run_with_its_name(tmp_path: Path) -> None:
    path = written(tmp_path / "fp32")
    path.with_suffix(".bin").unlink()
    with pytest.raises(SystemExit, match=r"ncnn cannot open .*model\.param"):
        runtime_ncnn.load(path, 1)


def test_an_output_of_another_name_ends_the_run(tmp_path: Path) -> None:
    path = written(tmp_path / "fp32")
    path.write_text(PARAM.replace("out0", "other"))
    predict, _, _ = runtime_ncnn.load(path, 1)
    with pytest.raises(SystemExit, match="ncnn cannot run the model"):
        predict(np.zeros((1, 2, 3, 3), np.float32))


def test_a_file_may_begin_with_a_layer_that_computes_in_place(tmp_path: Path) -> None:
    """On memory that ncnn does not own, such a layer would end the process. The given image must not change."""
    path = written(tmp_path / "fp32")
    path.write_text("7767517\n2 2\nInput in0 0 1 in0\nReLU relu 1 1 in0 out0\n")
    image = np.array([[[[1, -2], [-3, 4]]]], np.float32)
    given = image.copy()
    assert np.array_equal(runtime_ncnn.load(path, 1)[0](given), np.maximum(image, 0))
    assert np.array_equal(given, image)
