"""Value ranges of tensors over calibration images."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from compress import targets
from compress.config import ExportConfig
from compress.errors import TargetFailed
from compress.targets import calibration, onnx_graph
from tests.fakes import SIDE, FakeModel


def test_ranges_are_means_over_images_of_an_images_extremes(model: FakeModel, tmp_path: Path) -> None:
    graph = onnx_graph.read(targets.get("onnxruntime").convert(model, tmp_path, ExportConfig()).path)
    low, high = np.full((1, 3, SIDE, SIDE), -1, np.float32), np.full((1, 3, SIDE, SIDE), 3, np.float32)
    low[0, 0, 0, 0] = 0.5
    result = calibration.tensor_ranges(graph, [low, high])
    assert result[onnx_graph.INPUT] == (1.0, 1.75)
    assert np.allclose(result["output0"], np.mean([_extremes(model.answer(each)) for each in (low, high)], 0))


def test_images_are_looked_at_once(model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = onnx_graph.read(targets.get("onnxruntime").convert(model, tmp_path, ExportConfig()).path)
    generator = np.random.default_rng(7)
    images = [generator.random((1, 3, SIDE, SIDE), dtype=np.float32) for _ in range(2)]
    open_session = Mock(wraps=onnx_graph.open_session)
    monkeypatch.setattr(calibration, "open_session", open_session)
    mean = calibration.tensor_ranges(graph, images)
    wide = calibration.tensor_ranges(graph, images, calibration.EXTREMES)
    assert open_session.call_count == 1 and all(wide[name][1] >= mean[name][1] for name in mean)
    assert wide[onnx_graph.INPUT][1] == max(image.max() for image in images)
    calibration.tensor_ranges(graph, images[:1])
    assert open_session.call_count == 2


def test_what_is_not_finite_is_refused(model: FakeModel, tmp_path: Path) -> None:
    fp32 = targets.get("onnxruntime").convert(model, tmp_path, ExportConfig())
    image = np.zeros((1, 3, SIDE, SIDE), np.float32)
    broken = np.full_like(image, np.nan)
    with pytest.raises(TargetFailed, match="calibration image 1 contains NaN or infinity"):
        targets.get("onnxruntime").quantize(fp32, model, [image, broken], tmp_path / "int8")
    with pytest.raises(TargetFailed, match="no calibration images"):
        targets.get("onnxruntime").quantize(fp32, model, [], tmp_path / "int8")


def _extremes(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def test_ranges_of_extremes_by_numpy() -> None:
    extremes = np.random.default_rng(3).normal(size=(5, 2, 7))
    low, high = calibration.ranges_of(extremes, calibration.MEAN)
    assert np.allclose(low, extremes[:, 0].mean(0)) and np.allclose(high, extremes[:, 1].mean(0))
    low, high = calibration.ranges_of(extremes, calibration.EXTREMES)
    assert np.allclose(low, extremes[:, 0].min(0)) and np.allclose(high, extremes[:, 1].max(0))
    assert low.dtype == high.dtype == np.float32


def test_the_mean_of_many_images_is_not_rounded_on_the_way() -> None:
    extremes = np.full((20_000, 2, 1), 0.1, np.float32)  # summed in float32, the mean is off by 1e-4
    low, high = calibration.ranges_of(extremes, calibration.MEAN)
    assert low == high == np.float32(0.1)


def test_the_first_image_that_a_network_cannot_compute_is_named() -> None:
    extremes = np.zeros((4, 2, 3), np.float32)
    extremes[2, 1, 0], extremes[3, 0, 2] = np.inf, np.nan
    with pytest.raises(TargetFailed, match="calibration image 2: the network computes NaN or infinity"):
        calibration.ranges_of(extremes, calibration.MEAN)


def test_no_images_are_answered_with_the_key_to_increase() -> None:
    with pytest.raises(TargetFailed, match="data.calibration_images"):
        calibration.check([])
