from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import onnx
import pytest

from compress import targets
from compress.measurement import graph_cost, roofline
from compress.measurement.roofline import Roofline
from compress.product import Graph, Precision

PEAKS = Roofline({"f32": 100.0, "int8": 400.0}, bandwidth_gb_s=10.0, threads=2)


def test_the_roof_is_the_lower_of_arithmetic_and_memory() -> None:
    assert PEAKS.attainable_gops(2e9, 1e9, "f32") == 20.0  # 2 operations per byte at 10 GB/s
    assert PEAKS.attainable_gops(50e9, 1e9, "f32") == 100.0
    assert PEAKS.attainable_gops(50e9, 1e9, "int8") == 400.0
    assert PEAKS.attainable_gops(1e9, 0, "f32") == 100.0
    assert PEAKS.attainable_gops(1e9, 1e9, "bf16") is None
    assert (PEAKS.ridge("f32"), PEAKS.ridge("int8"), PEAKS.ridge("f16")) == (10.0, 40.0, None)


@pytest.mark.parametrize("int8", [False, True])
def test_the_convolutions_have_the_operations_that_are_divided_by_their_time(int8: bool, tmp_path: Path) -> None:
    channels, size, kernel = 16, 8, 3
    graph = roofline.convolutions(channels, size, kernel, int8=int8)
    onnx.checker.check_model(graph)
    assert 2 * graph_cost.count(graph).macs == 2 * roofline.LAYERS * (channels * size * kernel) ** 2
    onnx.save(graph, tmp_path / "model.onnx")
    for target in ("onnxruntime", "openvino"):
        precision = Precision.int8 if int8 else Precision.fp32
        predict = targets.load(Graph(tmp_path / "model.onnx", target, precision), 1)
        assert predict.int8_mac_share() == (1.0 if int8 else 0.0)


def test_a_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure(threads: int) -> Roofline:
        measured.append(threads)
        return PEAKS

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(roofline, "measure", measure)
    assert roofline.of_host(2) == roofline.of_host(2) == PEAKS and measured == [2]
    roofline.of_host(1)
    assert measured == [2, 1]  # another number of threads has other peaks
    for file in (tmp_path / "compress").glob("*.json"):
        file.write_text("{")
    assert roofline.of_host(2) == PEAKS and measured == [2, 1, 2]


def test_what_other_programs_disturbed_is_measured_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disturbed = Roofline({"f32": 50.0}, 5.0, 2, contended=True)
    results = iter([disturbed, PEAKS])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(roofline, "measure", lambda threads: next(results))
    assert roofline.of_host(2) == roofline.of_host(2) == disturbed
    (file,) = (tmp_path / "compress").glob("*.json")
    assert json.loads(file.read_text()) == asdict(disturbed)
    past = time.time() - 2 * roofline.RETRY_SECONDS
    os.utime(file, (past, past))
    assert roofline.of_host(2) == PEAKS


def test_without_a_folder_to_write_the_roofline_is_still_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    monkeypatch.setattr(roofline, "measure", lambda threads: PEAKS)
    assert roofline.of_host(2) == PEAKS


def test_this_machine_has_peaks_and_a_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SECONDS", 0.01)
    monkeypatch.setattr(roofline, "ARRAY_BYTES", 2**22)
    monkeypatch.setattr(roofline, "CONVOLUTIONS", ((16, 16, 3),))
    measured = roofline.measure(1)
    assert {"f32", "int8"} <= measured.peak_gops.keys()
    assert all(peak > 0 for peak in measured.peak_gops.values()) and measured.bandwidth_gb_s > 0
