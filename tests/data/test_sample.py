"""Samples."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

from compress.data.sample import Sample


def test_a_sample_of_a_users_own_needs_an_image_and_a_label_only() -> None:
    """`data=module` fills in the rest of a copy: the user's own stays as it was."""
    pixels = np.zeros((2, 3), np.uint8)
    own = Sample(pixels, 1)
    filled = dataclasses.replace(own, size=(3, 2), digest="abc")
    assert (own.size, own.digest) == ((0, 0), "")
    assert filled.source is pixels and (filled.label, filled.size, filled.digest) == (1, (3, 2), "abc")


def test_a_sample_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(Sample(Path("a.png"), 0), "label", 1)  # noqa: B010


def test_a_sample_goes_to_another_process() -> None:
    given = Sample(Path("a.png"), 2, (4, 5), "d")
    assert pickle.loads(pickle.dumps(given)) == given
