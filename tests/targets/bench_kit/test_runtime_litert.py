"""The bench kit's use of LiteRT, with a fake interpreter: the package is a gigabyte, and `make setup` leaves it out."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest


class Interpreter:
    """Doubles its input. Its tensors have the numbers 3 (input) and 8 (output), or 8 and 5 with `several`."""

    several = False

    def __init__(self, path: str, num_threads: int | None) -> None:
        self.path, self.threads, self.tensors = path, num_threads, dict[int, np.ndarray]()
        self.allocated = False

    def allocate_tensors(self) -> None:
        self.allocated = True

    def get_input_details(self) -> list[dict[str, int]]:
        return [{"index": 3}]

    def get_output_details(self) -> list[dict[str, int]]:
        return [{"index": 8}, {"index": 5}] if self.several else [{"index": 8}]

    def set_tensor(self, index: int, values: np.ndarray) -> None:
        assert self.allocated
        self.tensors[index] = values

    def invoke(self) -> None:
        self.tensors[8], self.tensors[5] = 2 * self.tensors[3], -self.tensors[3]

    def get_tensor(self, index: int) -> np.ndarray:
        return self.tensors[index]


Load = Callable[[Path, int | None], tuple[Callable[[np.ndarray], np.ndarray], str, str]]


def kit_with(package: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the kit where `package` alone is installed, in version 9.9."""
    for name in ("ai_edge_litert", "tflite_runtime"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name) if name == package else None)
        interpreter = SimpleNamespace(Interpreter=Interpreter) if name == package else None
        monkeypatch.setitem(sys.modules, f"{name}.interpreter", interpreter)
    monkeypatch.delitem(sys.modules, "compress.targets.bench_kit.runtime_litert", raising=False)
    module = importlib.import_module("compress.targets.bench_kit.runtime_litert")
    monkeypatch.delitem(sys.modules, "compress.targets.bench_kit.runtime_litert")
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"9.9 of {name}")
    return module


@pytest.mark.parametrize(
    ("package", "named"), [("ai_edge_litert", "ai-edge-litert"), ("tflite_runtime", "tflite-runtime")]
)
def test_the_predecessor_stands_in_where_litert_is_absent(
    package: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, runtime, precision = kit_with(package, monkeypatch).load(Path("fp32", "model.tflite"), 2)
    assert runtime == f"{named} 9.9 of {named}"
    assert precision == "f32"
    image = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    assert np.array_equal(predict(image), 2 * image)


def test_several_outputs_are_a_tuple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Interpreter, "several", True)
    predict, _, _ = kit_with("ai_edge_litert", monkeypatch).load(Path("fp32", "model.tflite"), None)
    image = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    first, second = predict(image)
    assert np.array_equal(first, 2 * image) and np.array_equal(second, -image)


def test_the_folder_says_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kit_with("ai_edge_litert", monkeypatch).load(Path("int8", "model.tflite"), None)[2] == "int8"
