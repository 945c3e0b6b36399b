"""The bench kit's script, with a runtime of known outputs. On real files, end_to_end/test_every_target.py runs it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from compress.targets.artifact import KIT
from compress.targets.bench_kit import labelled_images, power, thermal

OUTPUT = np.array([[1.0, 2.0, 4.0]], np.float32)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`bench.py` as a script beside its other modules; its `runtime` returns `OUTPUT` for every image."""

    def load(path: Path, threads: int | None) -> tuple[Callable[[np.ndarray], np.ndarray], str, str]:
        assert path.is_file()
        return lambda image: OUTPUT, f"known 1.0 with {threads} threads", "int8"

    monkeypatch.setitem(sys.modules, "labelled_images", labelled_images)
    monkeypatch.setitem(sys.modules, "power", power)
    monkeypatch.setitem(sys.modules, "thermal", thermal)
    monkeypatch.setitem(sys.modules, "runtime", SimpleNamespace(load=load))
    spec = importlib.util.spec_from_file_location("bench", KIT / "bench.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


def write_artifact(folder: Path, expected: np.ndarray, tolerance: float = 0.1) -> dict[str, str]:
    """An artifact folder with an INT8 and an FP32 model; returns the checksums of its files."""
    for precision in ("int8", "fp32"):
        (folder / precision).mkdir()
        (folder / precision / "model.onnx").write_text(precision)
    np.save(folder / "sample_input.npy", np.zeros((1, 3, 4, 4), np.float32))
    np.save(folder / "expected_output_int8.npy", expected)
    names = ("int8/model.onnx", "fp32/model.onnx", "sample_input.npy", "expected_output_int8.npy")
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    entry = {"model": "int8/model.onnx", "expected_output": "expected_output_int8.npy", "tolerance": tolerance}
    manifest = {
        "target": "known", "precision": ["fp32", "int8"], "models": {"int8": entry}, "files": files,
        "output": "scores", "classes": ["a", "b", "c"],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return files


def run(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench.py", "int8", "--device", "d", "--seconds", "0", *options])
    return bench.main()


def test_a_result_says_what_was_run_and_that_it_matches(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_artifact(tmp_path, OUTPUT + 0.25)
    assert run(bench, monkeypatch, "--threads", "3") == 0
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["runtime"] == "known 1.0 with 3 threads" and result["threads"] == 3
    assert (result["target"], result["precision"], result["device"]) == ("known", "int8", "d")
    assert result["largest_difference"] == pytest.approx(0.25 / 4.25) and result["outputs_match"] is True
    assert result["files"] == {"int8/model.onnx": files["int8/model.onnx"]}
    assert result["latency_ms"]["runs"] == 20 and result["labelled_images"] is None


def test_outputs_outside_the_tolerance_end_with_status_1_and_are_recorded(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tmp_path, OUTPUT + 0.25, tolerance=0.05)
    assert run(bench, monkeypatch) == 1
    assert json.loads((tmp_path / "bench.json").read_text())["outputs_match"] is False


@pytest.mark.parametrize(("second", "status"), [(OUTPUT, 0), (OUTPUT + 1, 1), (OUTPUT[:, :2], 1), (None, 1)])
def test_all_outputs_must_match(
    second: np.ndarray | None, status: int, bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tmp_path, OUTPUT)
    np.save(tmp_path / "expected_output_int8_1.npy", OUTPUT)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["models"]["int8"]["other_outputs"] = [{"expected_output": "expected_output_int8_1.npy"}]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    outputs = OUTPUT if second is None else (OUTPUT, second)
    monkeypatch.setattr(bench.runtime, "load", lambda path, threads: (lambda image: outputs, "known", "int8"))
    assert run(bench, monkeypatch) == status


def test_a_file_that_differs_from_the_exported_one_ends_the_run(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tmp_path, OUTPUT)
    (tmp_path / "int8" / "model.onnx").write_text("another")
    with pytest.raises(SystemExit, match="int8/model.onnx differs from the exported file: SHA-256 "):
        run(bench, monkeypatch)
    assert not (tmp_path / "bench.json").exists()


def test_folders_of_other_precisions_may_be_left_behind(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tmp_path, OUTPUT)
    (tmp_path / "fp32" / "model.onnx").unlink()
    assert run(bench, monkeypatch) == 0


@pytest.mark.parametrize("name", ["int8/model.onnx", "sample_input.npy"])
def test_files_that_the_precision_needs_may_not(
    name: str, bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tmp_path, OUTPUT)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=Path(name).name):
        run(bench, monkeypatch)


def test_accuracy_here_stands_beside_that_at_export(bench: ModuleType, tmp_path: Path) -> None:
    manifest = {"output": "scores", "classes": ["a", "b", "c"]}
    entry = {"labelled_images": {"metric": "top1", "value": 0.75, "images": 2}}
    assert bench.labelled_accuracy(manifest, entry, lambda pixels: OUTPUT) is None  # the images were left behind
    images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.array([[2], [0]], np.float32)
    np.savez(tmp_path / labelled_images.FILE, images=images, labels=labels, owner=np.arange(2))
    result = bench.labelled_accuracy(manifest, entry, lambda pixels: OUTPUT)
    assert result == {"metric": "top1", "value": 0.5, "images": 2, "expected": 0.75}
    assert bench.labelled_accuracy(manifest, {}, lambda pixels: OUTPUT) is None


def test_a_difference_is_the_median_over_rows_of_the_largest_in_a_row(bench: ModuleType) -> None:
    expected = np.array([[[10.0, 1], [8, 2], [6, 3]]])
    swapped = expected[:, [1, 0, 2]]  # two detections with nearly equal scores change places
    assert bench.largest_difference(swapped, expected) == pytest.approx(2 / 10)
    assert bench.largest_difference(expected + [[[0, 0], [0.5, 0.1], [0.9, 0]]], expected) == pytest.approx(0.05)


@pytest.mark.parametrize("output", [np.zeros((1, 4)), np.array([[1.0, np.nan, 4.0]]), np.array([[np.inf, 2, 4]])])
def test_outputs_of_another_shape_or_not_finite_are_infinitely_far(bench: ModuleType, output: np.ndarray) -> None:
    assert bench.largest_difference(output, OUTPUT) == float("inf")


def test_an_expected_output_of_zeros_divides_by_no_zero(bench: ModuleType) -> None:
    assert bench.largest_difference(np.zeros((1, 3)), np.zeros((1, 3))) == 0


def test_latency_is_measured_after_a_warm_up_for_the_given_time(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that only the call moves: 1 s in the warm-up, then 1/16, 2/16, 3/16 and 4/16 s in turn."""
    now, calls = [0.0], [0]

    def call() -> None:
        calls[0] += 1
        now[0] += 1.0 if calls[0] <= 10 else (1 + calls[0] % 4) / 16

    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    result = bench.measure(call, 15.0)
    assert {name: result[name] for name in ("median", "p95", "runs")} == {"median": 156.25, "p95": 250.0, "runs": 96}
    assert set(result) == {"median", "p95", "runs", "drift", "celsius", "throttled"}  # 10 s in each 64 calls
    calls[0] = 0
    assert bench.measure(call, 0)["runs"] == 20
