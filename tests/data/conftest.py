from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest


def write_image(path: Path, width: int = 64, height: int = 64, seed: int = 0) -> None:
    """A noise image, different for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def yolo_folder(tmp_path: Path) -> Path:
    """A YOLO data set of 12 training and 4 validation images, 64x32 pixels, one box each."""
    seed = 0
    for split, count in (("train", 12), ("val", 4)):
        for i in range(count):
            write_image(tmp_path / "images" / split / f"{i}.png", 64, 32, seed := seed + 1)
            label = tmp_path / "labels" / split / f"{i}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{i % 2} 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return tmp_path
