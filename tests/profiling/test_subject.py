from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress.errors import UserError
from compress.profiling.subject import image_of, image_shape, longer_side

FILE = Path("net.xml")


@pytest.mark.parametrize(
    ("own", "imgsz", "channels", "shape"),
    [
        ([1, 3, 64, 32], None, None, (1, 3, 64, 32)),
        ([None, 3, None, None], 64, None, (1, 3, 64, 64)),
        ([None, None, None, None], 64, 4, (1, 4, 64, 64)),
        ([1, 96, 96, 1], 96, 1, (1, 96, 96, 1)),
        ([None, None, None, 3], 64, None, (1, 64, 64, 3)),
        ([1, 3, 16, 3], None, None, (1, 3, 16, 3)),
    ],
)  # fmt: skip
def test_open_sizes_are_set(
    own: list[int | None], imgsz: int | None, channels: int | None, shape: tuple[int, ...]
) -> None:
    assert image_shape(FILE, own, imgsz, channels) == shape


@pytest.mark.parametrize(
    ("own", "imgsz", "channels", "message"),
    [
        ([None, 3, None, None], None, None, r"\['\?', 3, '\?', '\?'\]: set --imgsz, or export it with a fixed size"),
        ([1, None, None, None], None, None, "set --channels and --imgsz, or"),
        ([1, None, 32, 32], None, None, "set --channels, or"),
        ([2, 3, 32, 32], None, None, "with four dimensions and batch 1"),
        ([1, 100], None, None, "with four dimensions and batch 1"),
        ([], 64, None, "with four dimensions and batch 1"),
        ([1, 3, 32, 32], 64, None, "--imgsz=64: net.xml takes only 32 x 32 px: remove the option"),
        ([1, 3, 32, 32], None, 4, "--channels=4: net.xml takes 3 channels: remove the option"),
        ([1, 3, None, None], 10**6, None, "a side of 1000000 px: set at most"),
    ],
)  # fmt: skip
def test_what_is_no_image_or_stays_open_is_an_error(
    own: list[int | None], imgsz: int | None, channels: int | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        image_shape(FILE, own, imgsz, channels)


def test_images_have_the_type_of_the_input() -> None:
    assert image_of((1, 3, 4, 4), np.dtype(np.float16)).dtype == np.float16
    image = image_of((1, 3, 4, 4), np.dtype(np.uint8))
    assert image.dtype == np.uint8 and image.max() > 100
    assert longer_side((1, 3, 64, 32)) == longer_side((1, 64, 32, 3)) == 64
