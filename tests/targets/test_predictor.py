"""Predictors: batches, evaluators, and the share of INT8 MACs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress.targets.predictor import LayerMacs, Predictor
from compress.tasks.outputs import first

LAYERS = [
    LayerMacs("first", 100, int8=False),
    LayerMacs("second", 300, int8=True),
    LayerMacs("third", 100, int8=False),
]


def predictor(seen: list[np.ndarray], computed_by: str = "") -> Predictor:
    def run(image: np.ndarray) -> np.ndarray:
        seen.append(image)
        return image.sum(axis=(1, 2, 3), keepdims=False)[:, None].astype(np.float64)

    return Predictor(run, "runtime 1.0", "f32", "measured", lambda: LAYERS, "graph", computed_by=computed_by)


def test_images_run_one_by_one_in_float32() -> None:
    seen: list[np.ndarray] = []
    images = np.arange(3 * 2 * 4 * 4, dtype=np.float64).reshape(3, 4, 4, 2).transpose(0, 3, 1, 2)
    result = first(predictor(seen)(images))
    assert [(image.shape, image.dtype, image.flags.c_contiguous) for image in seen] == [((1, 2, 4, 4), "f4", True)] * 3
    assert result.dtype == np.float32
    assert result.tolist() == images.sum(axis=(1, 2, 3))[:, None].tolist()


def test_several_outputs_are_joined_one_by_one() -> None:
    def run(image: np.ndarray) -> tuple[np.ndarray, ...]:
        return image.sum(axis=(2, 3)), image[:, :1].astype(np.float64)

    images = np.arange(3 * 2 * 4 * 4, dtype=np.float32).reshape(3, 2, 4, 4)
    sums, planes = replace(predictor([]), run=run)(images)
    assert sums.tolist() == images.sum(axis=(2, 3)).tolist() and sums.shape == (3, 2)
    assert np.array_equal(planes, images[:, :1]) and planes.dtype == np.float32


def test_shares_are_weighted_by_macs() -> None:
    assert predictor([]).int8_mac_share() == 300 / 500


@pytest.mark.parametrize("layers", [[], [LayerMacs("empty", 0, int8=True)]])
def test_without_macs_the_share_is_zero(layers: list[LayerMacs]) -> None:
    assert replace(predictor([]), layers=lambda: layers).int8_mac_share() == 0.0


def test_an_evaluator_is_the_runtime_and_its_precision_unless_said_otherwise() -> None:
    assert predictor([]).evaluator == "runtime 1.0 f32"
    assert predictor([], "another").evaluator == "another"
