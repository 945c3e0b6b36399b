"""Data sets from the samples of their splits."""

from __future__ import annotations

import numpy as np
import pytest

from compress.config import DataConfig
from compress.data import Sample
from compress.data.assembly import assemble
from compress.errors import UserError
from compress.tasks import CLASSIFY
from compress.tasks.augmentation import AERIAL, Augmentation

PIXELS = np.zeros((2, 2), np.uint8)


def samples(first: int, count: int) -> list[Sample]:
    return [Sample(PIXELS + index, index % 2, (2, 2), str(index)) for index in range(first, first + count)]


CONTENTS = {"train": samples(0, 9), "validation": samples(9, 4), "test": samples(13, 2)}
CONFIG = DataConfig(calibration_images=2, validation_images=3)


def test_calibration_is_held_out_and_every_further_split_is_extra() -> None:
    data = assemble(CLASSIFY, ("a", "b"), CONTENTS, CONFIG, 8, 1, 0, augmentation=AERIAL)
    assert (len(data.train), len(data.calibration), len(data.validation), len(data.extra["test"])) == (7, 2, 3, 2)
    assert data.train.augmentation == AERIAL and (data.train.imgsz, data.train.channels) == (8, 1)
    whole = assemble(CLASSIFY, ("a", "b"), CONTENTS, DataConfig(), 8, 1, 0)
    assert whole.fingerprint == data.fingerprint and whole.train.augmentation == Augmentation()


def test_chosen_samples_are_used_as_they_are() -> None:
    contents = {**CONTENTS, "calibration": samples(20, 3)}
    data = assemble(CLASSIFY, ("a", "b"), contents, CONFIG, 8, 1, 0, chosen=(CONTENTS["train"][:5], samples(20, 1)))
    assert (len(data.train), len(data.calibration)) == (5, 1) and set(data.extra) == {"test"}


def test_without_train_there_is_nothing_to_calibrate_on() -> None:
    data = assemble(CLASSIFY, ("a", "b"), {"validation": samples(0, 4)}, DataConfig(), 8, 1, 0)
    assert (len(data.train), len(data.calibration), len(data.validation)) == (0, 0, 4)


def test_an_image_in_two_splits_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.test=.*must not overlap"):
        assemble(CLASSIFY, ("a", "b"), {**CONTENTS, "test": samples(8, 1)}, DataConfig(), 8, 1, 0)
