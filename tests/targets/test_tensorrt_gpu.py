"""TensorRT on a GPU, with NumPy fakes of CUDA and TensorRT that check addresses, copy directions and errors. On a real
GPU, test_targets.py runs the same code."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from compress.errors import TargetFailed
from compress.product import Graph, Precision
from compress.targets import tensorrt
from compress.targets.bench_kit import runtime_tensorrt

SHAPES = {"output0": (1, 3), "images": (1, 2, 4, 4)}  # the order must not matter


class Cuda:
    """A fake `libcudart`, whose device memory is accessible through cudaMemcpy only."""

    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array[ctypes.c_char]] = {}

    def cudaMalloc(self, pointer: Any, size: ctypes.c_size_t) -> int:
        address = 0x1000 * (len(self.memory) + 1)
        self.memory[address] = ctypes.create_string_buffer(size.value)
        pointer._obj.value = address
        return 0

    def cudaStreamCreate(self, stream: Any) -> int:
        stream._obj.value = 7
        return 0

    def cudaStreamSynchronize(self, stream: ctypes.c_void_p) -> int:
        return 0 if stream.value == 7 else 400

    def cudaMemcpy(self, to: ctypes.c_void_p, source: ctypes.c_void_p, size: ctypes.c_size_t, kind: Any) -> int:
        device = to if kind.value == 1 else source
        if device.value not in self.memory or len(self.memory[device.value]) < size.value:
            return 1  # cudaErrorInvalidValue
        held = self.memory[device.value]
        if kind.value == 1:
            ctypes.memmove(held, source, size.value)
        else:
            ctypes.memmove(to, held, size.value)
        return 0

    def array(self, address: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.frombuffer(self.memory[address], np.float32).reshape(shape)


def fake_tensorrt(cuda: Cuda, answer: Callable[[np.ndarray], np.ndarray], *, fits: bool = True) -> Any:
    class Context:
        def __init__(self) -> None:
            self.at: dict[str, int] = {}

        def set_tensor_address(self, name: str, address: int) -> None:
            self.at[name] = address

        def execute_async_v3(self, stream: int) -> bool:
            image = cuda.array(self.at["images"], SHAPES["images"])
            cuda.array(self.at["output0"], SHAPES["output0"])[...] = answer(image)
            return stream == 7

    mode = SimpleNamespace(INPUT="in", OUTPUT="out")
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda i: list(SHAPES)[i],
        get_tensor_shape=lambda name: SHAPES[name],
        get_tensor_mode=lambda name: "in" if name == "images" else "out",
        create_execution_context=Context,
    )
    return SimpleNamespace(
        __name__="tensorrt_rtx",
        __version__="1.7",
        TensorIOMode=mode,
        Logger=type("Logger", (), {"WARNING": 2, "__init__": lambda self, level: None}),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: engine if fits else None),
    )


def means(image: np.ndarray) -> np.ndarray:
    return np.array([[image.mean(), image.max(), image[0, 1, 2, 3]]], np.float32)


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
