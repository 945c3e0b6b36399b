from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compress.measurement import end_to_end
from tests.fakes import Clock


class Images:
    """Images that take 3 ms to read; the first ones of a process take longer."""

    def __init__(self, clock: Clock, count: int) -> None:
        self.clock, self.count, self.read = clock, count, 0

    def __len__(self) -> int:
        return self.count

    def image(self, index: int, /) -> np.ndarray:
        self.read += 1
        self.clock.sleep(1.0 if self.read <= 2 else 0.003)
        return np.full((4, 4, 3), 255, np.uint8)

    def target(self, index: int, /) -> Any:
        return 0


def test_each_part_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(end_to_end, "time", clock)

    def predict(images: np.ndarray) -> np.ndarray:
        assert images.shape == (1, 3, 4, 4) and images.dtype == np.float32 and images.max() == 1.0
        clock.sleep(0.005)
        return images

    def decode(outputs: Any) -> None:
        clock.sleep(0.002)

    split = Images(clock, 100)
    result = end_to_end.time_images(predict, decode, split)
    assert (result.prepare, result.inference, result.decode) == pytest.approx((3.0, 5.0, 2.0))
    assert result.median == pytest.approx(10.0) and result.p95 == pytest.approx(10.0)
    assert result.images == end_to_end.IMAGES and split.read == end_to_end.IMAGES + end_to_end.WARM_UP


def test_few_images_are_all_timed() -> None:
    result = end_to_end.time_images(lambda images: images, lambda outputs: None, Images(Clock(), 3))
    assert result.images == 3
