"""A small classifier and its calibration images."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fakes import SIDE, FakeModel, small_model


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return small_model()


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.random((1, 3, SIDE, SIDE), dtype=np.float32) for _ in range(8)]
