"""Models and data for tests that need no real ones."""

from __future__ import annotations

import copy
import ctypes
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from compress.capabilities import TopK, example_image, tensor_digest
from compress.tasks import CLASSIFY, Outputs, Predictions, Task
from compress.tasks.mean_ap import Detections
from compress.tasks.outputs import arrays, first, from_torch


@dataclass(frozen=True)
class BareModel:
    """A model (`Checkpointable`) around any network, which cannot be evaluated."""

    net: nn.Module
    task: Task = CLASSIFY
    imgsz: int = 16
    channels: int = 3
    classes: tuple[str, ...] = ("a", "b", "c")
    postprocess: TopK | None = None
    exclusions: Mapping[str, str] = field(default_factory=dict)
    stride: int = 1

    def with_net(self, net: nn.Module) -> Self:
        return replace(self, net=net)

    def with_imgsz(self, imgsz: int) -> Self:
        return replace(self, imgsz=imgsz)

    def identity(self) -> str:
        return tensor_digest(self.net)

    def deployed(self, *, postprocess: bool = True) -> nn.Module:
        return copy.deepcopy(self.net).eval().requires_grad_(False)

    def metadata(self) -> dict[str, str]:
        return {"names": str(dict(enumerate(self.classes)))}

    def quantization_exclusions(self) -> dict[str, str]:
        return dict(self.exclusions)

    def example_input(self, batch: int = 1) -> Tensor:
        return example_image(batch, self.channels, self.imgsz)

    def constructor(self) -> dict[str, Any]:
        return {}

    def answer(self, images: np.ndarray) -> np.ndarray:
        """Raw output of the deployed network, (b, …)."""
        return first(self.answers(images))

    def answers(self, images: np.ndarray) -> Outputs:
        """All raw outputs of the deployed network."""
        with torch.no_grad():
            return from_torch(self.deployed()(torch.from_numpy(images)))


class FakeModel(BareModel):
    """Can be evaluated (`Evaluable`); predictions are its raw outputs."""

    def decode(self, outputs: Outputs) -> Predictions:
        return first(outputs)


class Clock:
    """Stands for the module `time`. Time passes in `sleep` only, so tests do not depend on the speed of the machine."""

    def __init__(self) -> None:
        self.now = 0  # nanoseconds

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)

    def perf_counter(self) -> float:
        return self.now / 1e9

    monotonic = perf_counter

    def perf_counter_ns(self) -> int:
        return self.now

    def strftime(self, form: str) -> str:
        return time.strftime(form, time.gmtime(self.now // 10**9))


def detections(*rows: tuple[float, ...]) -> Detections:
    """Rows of class, score, x1, y1, x2, y2."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, 2:], table[:, 1], table[:, 0].astype(np.int64))


def truth(*rows: tuple[float, ...]) -> np.ndarray:
    """Rows of class, x1, y1, x2, y2."""
    return np.array(rows, np.float32).reshape(-1, 5)


def random_case(
    images: int, classes: int, objects: int, extra: int, seed: int = 0
) -> tuple[list[Detections], list[np.ndarray]]:
    """Detections and ground truths of some images: up to `2 * objects` objects in each, detected up to three times and
    not exactly, and `extra` detections of nothing."""
    rng = np.random.default_rng(seed)
    result, truths = [], []
    for _ in range(images):
        n = rng.integers(0, 2 * objects)
        corner, size = rng.uniform(0, 200, (n, 2)), rng.uniform(8, 50, (n, 2))
        boxes, labels = np.concatenate([corner, corner + size], 1), rng.integers(classes, size=n)
        truths.append(np.concatenate([labels[:, None], boxes], 1).astype(np.float32))
        copies = np.repeat(np.arange(n), rng.integers(0, 4, n))
        near = boxes[copies] + rng.normal(0, 3, (len(copies), 4))
        corner, size = rng.uniform(0, 200, (extra, 2)), rng.uniform(8, 50, (extra, 2))
        everything = np.concatenate([near, np.concatenate([corner, corner + size], 1)])
        all_labels = np.concatenate([labels[copies], rng.integers(classes, size=extra)])
        scores = np.concatenate([rng.beta(3, 2, len(copies)), rng.beta(1, 4, extra)])
        order = np.argsort(-scores, kind="stable")[:300]
        result.append(Detections(everything[order], scores[order], all_labels[order]))
    return result, truths


def small_classifier() -> nn.Sequential:
    """Two convolutions and a linear layer `6`, images (b, 3, s, s) to (b, 3)."""
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))


SIDE = 32  # pixels, of `small_model`


def small_model(*, imgsz: int = SIDE) -> FakeModel:
    """`small_classifier` for images of 32 pixels. Its last layer stays in float."""
    return FakeModel(small_classifier(), imgsz=imgsz, exclusions={"6": "the last layer"})


class Masks(nn.Module):
    """A small network with two outputs: images (b, 3, s, s) to rows (b, s²/64, 4 + 3 + 2) of box, scores and mask
    coefficients, and to mask prototypes (b, 2, s/2, s/2)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU())
        self.rows = nn.Sequential(nn.Conv2d(16, 16, 4, 4), nn.SiLU(), nn.Conv2d(16, 9, 1))
        self.prototypes = nn.Conv2d(16, 2, 3, 1, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.stem(images)
        return self.rows(features).flatten(2).transpose(1, 2), self.prototypes(features)


def small_segmenter() -> FakeModel:
    """`Masks` for images of 32 pixels. Its last layers stay in float."""
    return FakeModel(Masks(), imgsz=SIDE, exclusions={"rows.2": "the last layer", "prototypes": "the last layer"})


class ByReference(Protocol):
    """What `ctypes.byref` returns."""

    _obj: ctypes.c_void_p


class Cuda:
    """A fake `libcudart`, whose device memory is accessible through cudaMemcpy only. Its stream has the number 7."""

    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array[ctypes.c_char]] = {}

    def cudaMalloc(self, pointer: ByReference, size: ctypes.c_size_t) -> int:
        address = 0x1000 * (len(self.memory) + 1)
        self.memory[address] = ctypes.create_string_buffer(size.value)
        pointer._obj.value = address
        return 0

    def cudaStreamCreate(self, stream: ByReference) -> int:
        stream._obj.value = 7
        return 0

    def cudaStreamSynchronize(self, stream: ctypes.c_void_p) -> int:
        return 0 if stream.value == 7 else 400

    def cudaMemcpy(
        self, to: ctypes.c_void_p, source: ctypes.c_void_p, size: ctypes.c_size_t, kind: ctypes.c_int
    ) -> int:
        device = to if kind.value == 1 else source
        held = self.memory.get(device.value or 0)
        if held is None or len(held) < size.value:
            return 1  # cudaErrorInvalidValue
        if kind.value == 1:
            ctypes.memmove(held, source, size.value)
        else:
            ctypes.memmove(to, held, size.value)
        return 0

    def array(self, address: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.frombuffer(memoryview(self.memory[address]), np.float32).reshape(shape)


ENGINE_SHAPES = {"output0": (1, 3), "images": (1, 2, 4, 4)}  # the order must not matter


def fake_tensorrt(
    cuda: Cuda,
    answer: Callable[[np.ndarray], Outputs],
    *,
    fits: bool = True,
    name: str = "tensorrt_rtx",
    shapes: Mapping[str, tuple[int, ...]] = ENGINE_SHAPES,
) -> SimpleNamespace:
    """A fake of the module `tensorrt_rtx`. Its engines compute `answer` on the memory of `cuda`.

    Args:
        fits: whether engines were built for this GPU.
        shapes: of the engine's tensors; its outputs are named output0, ….
    """

    class Context:
        def __init__(self) -> None:
            self.at: dict[str, int] = {}

        def set_tensor_address(self, name: str, address: int) -> None:
            self.at[name] = address

        def execute_async_v3(self, stream: int) -> bool:
            image = cuda.array(self.at["images"], shapes["images"])
            for index, output in enumerate(arrays(answer(image))):
                cuda.array(self.at[f"output{index}"], shapes[f"output{index}"])[...] = output
            return stream == 7

    mode = SimpleNamespace(INPUT="in", OUTPUT="out")
    engine = SimpleNamespace(
        num_io_tensors=len(shapes),
        get_tensor_name=lambda i: list(shapes)[i],
        get_tensor_shape=lambda name: shapes[name],
        get_tensor_mode=lambda name: "in" if name == "images" else "out",
        create_execution_context=Context,
    )
    return SimpleNamespace(
        __name__=name,
        __version__="1.7",
        TensorIOMode=mode,
        Logger=type("Logger", (), {"WARNING": 2, "__init__": lambda self, level: None}),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: engine if fits else None),
    )


def means(image: np.ndarray) -> np.ndarray:
    """Three values of an image (1, 2, 4, 4), for `fake_tensorrt`: (1, 3)."""
    return np.array([[image.mean(), image.max(), image[0, 1, 2, 3]]], np.float32)
