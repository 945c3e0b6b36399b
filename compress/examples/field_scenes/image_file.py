"""Writes a scene as an image file and a label file."""

from __future__ import annotations

import cv2
import numpy as np

from compress.examples.field_scenes.scene import GENERATOR_VERSION, SPLITS, render


def write_image(index: int, folder: str, split: str, imgsz: int) -> int:
    """Renders scene `index` of a split and writes its image and labels into `folder`. Returns the number of boxes."""
    image, rows = render(split, index, imgsz)
    quality = int(np.random.default_rng([GENERATOR_VERSION, SPLITS[split][0], index, 1]).integers(75, 96))
    path = f"{folder}/images/{split}/{index:06d}.jpg"
    if not cv2.imwrite(path, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]):
        raise OSError(f"cannot write {path}")
    lines = []
    for label, x1, y1, x2, y2 in rows.tolist():
        values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        lines.append(f"{int(label)} " + " ".join(f"{value / imgsz:.6f}" for value in values) + "\n")
    with open(f"{folder}/labels/{split}/{index:06d}.txt", "w") as file:
        file.writelines(lines)
    return len(rows)
