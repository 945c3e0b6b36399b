"""The outputs of an artifact, as a fresh process stores them. `test_contracts.py` runs that process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from compress import targets
from compress.errors import TargetFailed
from compress.product import Graph, Precision
from compress.targets import artifact, reload
from compress.targets.predictor import Predictor

IMAGES = np.random.default_rng(0).random((6, 3, 2, 2), dtype=np.float32)


def reloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...] = (1, 3)) -> dict[str, np.ndarray]:
    """What `main` stores of an FP32 and an INT8 graph whose runtime computes FP32 files in BF16 unless told otherwise:
    the means of the channels, plus 1 in BF16."""

    def load(graph: Graph, threads: int, *, exact: bool = False) -> Predictor:
        precision = "int8" if graph.precision is Precision.int8 else "f32" if exact else "bf16"
        return Predictor(
            lambda image: image.mean(axis=(2, 3)) + (precision == "bf16"), "known", precision, "measured", lambda: []
        )

    graphs = [(Graph(tmp_path / each.value, "known", each), shape) for each in (Precision.fp32, Precision.int8)]
    monkeypatch.setattr(artifact, "read", lambda folder: graphs)
    monkeypatch.setattr(targets, "get", lambda name: SimpleNamespace(load=load))
    np.save(tmp_path / "images.npy", IMAGES)
    reload.main(tmp_path, tmp_path / "images.npy", tmp_path / "outputs.npz")
    with np.load(tmp_path / "outputs.npz") as file:
        return dict(file)


def test_fp32_is_stored_as_computed_in_float32_and_as_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, means = reloaded(tmp_path, monkeypatch), IMAGES.mean(axis=(2, 3))
    assert set(result) == {"fp32", "fp32/again", "fp32/as_run", "int8", "int8/again"}
    assert np.allclose(result["fp32"], means) and np.allclose(result["int8"], means)
    assert np.allclose(result["fp32/as_run"], means + 1)
    assert np.allclose(result["fp32/again"], means[: reload.REPEATED])


def test_an_output_of_another_shape_than_the_manifest_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TargetFailed, match=r"fp32 returns shape \(3,\), its manifest says \(5,\)"):
        reloaded(tmp_path, monkeypatch, (1, 5))
