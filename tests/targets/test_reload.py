"""The outputs of an artifact, as a fresh process stores them. `test_contracts.py` runs that process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from compress import targets
from compress.errors import TargetFailed
from compress.product import Graph, Precision
from compress.targets import artifact, reload
from compress.targets.predictor import Predictor
from compress.tasks import Outputs
from compress.tasks.outputs import arrays, pack

IMAGES = np.random.default_rng(0).random((6, 3, 2, 2), dtype=np.float32)


def means(image: np.ndarray) -> np.ndarray:
    """The means of the channels."""
    return image.mean(axis=(2, 3))


def reloaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shapes: tuple[tuple[int, ...], ...] = ((1, 3),),
    compute: Callable[[np.ndarray], Outputs] = means,
) -> dict[str, np.ndarray]:
    """What `main` stores of an FP32 and an INT8 graph whose runtime computes FP32 files in BF16 unless told otherwise:
    plus 1 in the first output."""

    def load(graph: Graph, threads: int, *, exact: bool = False) -> Predictor:
        precision = "int8" if graph.precision is Precision.int8 else "f32" if exact else "bf16"

        def run(image: np.ndarray) -> Outputs:
            rows, *others = arrays(compute(image))
            return pack([rows + (precision == "bf16"), *others])

        return Predictor(run, "known", precision, "measured", lambda: [])

    graphs = [(Graph(tmp_path / each.value, "known", each), shapes) for each in (Precision.fp32, Precision.int8)]
    monkeypatch.setattr(artifact, "read", lambda folder: graphs)
    monkeypatch.setattr(targets, "get", lambda name: SimpleNamespace(load=load))
    np.save(tmp_path / "images.npy", IMAGES)
    reload.main(tmp_path, tmp_path / "images.npy", tmp_path / "outputs.npz")
    with np.load(tmp_path / "outputs.npz") as file:
        return dict(file)


def test_fp32_is_stored_as_computed_in_float32_and_as_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, expected = reloaded(tmp_path, monkeypatch), means(IMAGES)
    assert set(result) == {"fp32", "fp32/again", "fp32/as_run", "int8", "int8/again"}
    assert np.allclose(result["fp32"], expected) and np.allclose(result["int8"], expected)
    assert np.allclose(result["fp32/as_run"], expected + 1)
    assert np.allclose(result["fp32/again"], expected[: reload.REPEATED])


def test_further_outputs_are_stored_and_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = ((1, 3), (1, 1, 2, 2))
    result = reloaded(tmp_path, monkeypatch, shapes, lambda image: (image.mean(axis=(2, 3)), image[:, 1:2]))
    read = reload.read(tmp_path / "outputs.npz")
    assert set(read) == {"fp32", "fp32/again", "fp32/as_run", "int8", "int8/again"} and len(result) == 2 * len(read)
    means, planes = read["fp32"]
    assert np.allclose(means, IMAGES.mean(axis=(2, 3))) and np.array_equal(planes, IMAGES[:, 1:2])
    with pytest.raises(TargetFailed, match=r"returns shape \(3,\), \(1, 2, 2\), its manifest says \(3,\)$"):
        reloaded(tmp_path, monkeypatch, ((1, 3),), lambda image: (image.mean(axis=(2, 3)), image[:, 1:2]))


def test_an_output_of_another_shape_than_the_manifest_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TargetFailed, match=r"fp32 returns shape \(3,\), its manifest says \(5,\)"):
        reloaded(tmp_path, monkeypatch, ((1, 5),))
