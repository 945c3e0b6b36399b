from __future__ import annotations

import numpy as np
import pytest

from compress.examples.field_scenes.ground import dim, grid, lay_ground, sensor_noise


def test_the_grid_runs_from_minus_one_to_one() -> None:
    x, y = grid(5)
    assert x.tolist() == [[-1, -0.5, 0, 0.5, 1]] and y.T.tolist() == x.tolist()


def test_a_mask_and_gains_multiply_each_channel() -> None:
    scene = np.full((2, 2, 3), 100, np.float32)
    dim(scene, np.array([[1, 0.5], [0, 1]], np.float32), (1.0, 2.0, 0.5))
    assert scene[0, 1].tolist() == [50, 100, 25]
    assert scene[1].tolist() == [[0, 0, 0], [100, 200, 50]]


def test_sensor_noise_has_unit_variance_and_room_for_random_crops() -> None:
    grain = sensor_noise(64)
    assert grain.shape == (128, 128, 3)
    assert grain.var(axis=(0, 1)) == pytest.approx([1, 1, 1], abs=0.05)
    assert np.corrcoef(grain[..., 0].ravel(), grain[..., 1].ravel())[0, 1] == pytest.approx(0.64, abs=0.05)


def test_the_same_seed_lays_the_same_ground() -> None:
    first, again, other = (lay_ground(np.random.default_rng(seed), range(2), 20.0, 64) for seed in (3, 3, 4))
    assert first.shape == (64, 64, 3) and first.dtype == np.float32
    assert 0 <= first.min() < first.max() <= 255
    assert (first == again).all() and (first != other).any()
