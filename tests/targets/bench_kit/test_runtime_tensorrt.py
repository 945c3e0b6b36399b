"""The bench kit's use of TensorRT, with fakes of CUDA and TensorRT."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

from compress.targets.bench_kit import runtime_tensorrt
from tests.fakes import Cuda, fake_tensorrt, means

IMAGE = np.random.default_rng(0).random((1, 2, 4, 4), dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `int8` with model.engine, on a machine with TensorRT and TensorRT-RTX."""
    cuda = Cuda()
    monkeypatch.setattr(runtime_tensorrt, "cuda_runtime", lambda: cuda)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, fake_tensorrt(cuda, means, name=name))
    (tmp_path / "int8").mkdir()
    (tmp_path / "int8" / "model.engine").write_bytes(b"engine")
    return tmp_path / "int8"


def test_the_shipped_engine_runs_in_tensorrt_rtx_and_a_plan_built_here_in_tensorrt(folder: Path) -> None:
    assert runtime_tensorrt.load(folder / "model.onnx", None)[1] == "tensorrt_rtx 1.7"
    (folder / "model.plan").write_bytes(b"plan")
    assert runtime_tensorrt.load(folder / "model.onnx", None)[1] == "tensorrt 1.7"


def test_an_output_is_a_copy_that_the_next_image_does_not_change(folder: Path) -> None:
    predict, _, precision = runtime_tensorrt.load(folder / "model.onnx", None)
    first = predict(IMAGE)
    predict(np.zeros_like(IMAGE))
    assert np.allclose(first, means(IMAGE)) and precision == "int8"


def test_several_outputs_are_a_tuple_in_the_order_of_their_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda()
    shapes = {"output1": (1, 4, 4), "images": (1, 2, 4, 4), "output0": (1, 3)}
    answer = lambda image: (means(image), image[:, 0] + 1)  # noqa: E731
    monkeypatch.setattr(runtime_tensorrt, "cuda_runtime", lambda: cuda)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt(cuda, answer, shapes=shapes))
    predict, _, _ = runtime_tensorrt.load(folder / "model.onnx", None)
    first, second = predict(IMAGE)
    predict(np.zeros_like(IMAGE))
    assert np.allclose(first, means(IMAGE)) and np.array_equal(second, IMAGE[:, 0] + 1)


def test_an_engine_of_another_gpu_says_what_to_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt(Cuda(), means, fits=False))
    with pytest.raises(SystemExit, match=r"model\.engine was built for another GPU.*: run build\.sh"):
        runtime_tensorrt.load(folder / "model.onnx", None)


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaStreamCreate"])
def test_an_error_of_cuda_ends_the_run_with_its_number(
    call: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cuda, call, lambda self, *given: 2)  # out of memory
    with pytest.raises(SystemExit, match="CUDA error 2"):
        runtime_tensorrt.load(folder / "model.onnx", None)


@pytest.mark.parametrize("call", ["cudaMemcpy", "cudaStreamSynchronize"])
def test_an_error_on_the_way_ends_the_run_with_its_number(
    call: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, _, _ = runtime_tensorrt.load(folder / "model.onnx", None)
    monkeypatch.setattr(Cuda, call, lambda self, *given: 700)  # an illegal address
    with pytest.raises(SystemExit, match="CUDA error 700"):
        predict(IMAGE)


def test_a_machine_without_cuda_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def absent(name: str) -> ctypes.CDLL:
        asked.append(name)
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(SystemExit, match="libcudart.*install CUDA"):
        runtime_tensorrt.cuda_runtime()
    assert "libcudart.so" in asked and "cudart64_13.dll" in asked
