from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.config import DataConfig
from compress.data import batches, load
from compress.tasks import CLASSIFY

pytest.importorskip("sklearn")


def test_the_splits_are_fixed_disjoint_and_hold_every_digit() -> None:
    data, other_seed = load(DataConfig(name="digits"), 16, 1, 0), load(DataConfig(name="digits"), 16, 1, 5)
    assert data.task is CLASSIFY and len(data.classes) == 10
    assert (len(data.train), len(data.calibration), len(data.validation)) == (1097, 300, 400)
    assert data.fingerprint == other_seed.fingerprint
    contents = [
        {sample.digest for sample in split.samples} for split in (data.train, data.calibration, data.validation)
    ]
    assert not contents[0] & contents[1] and not (contents[0] | contents[1]) & contents[2]
    assert {data.validation.target(i) for i in range(400)} == set(range(10))
    np.testing.assert_array_equal(data.validation.image(3), other_seed.validation.image(3))


def test_limits_and_batches() -> None:
    data = load(DataConfig(name="digits", calibration_images=20, validation_images=50), 32, 3, 0)
    assert (len(data.calibration), len(data.validation)) == (20, 50)
    batch = next(batches(data.train, batch=8, seed=0, epoch=0, augment=True))
    assert batch["img"].shape == (8, 3, 32, 32) and set(batch) == {"img", "cls"}
    assert batch["cls"].dtype == torch.int64 and batch["cls"].shape == (8,)
