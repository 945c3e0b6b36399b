"""Writes a scene as an image file and label files."""

from __future__ import annotations

import cv2
import numpy as np

from compress.examples.field_scenes.scene import GENERATOR_VERSION, SPLITS, Shape, render, shapes
from compress.tasks.instances import clip_polygon
from compress.tasks.obb import corners, rotated

POSE_CLASSES = 3  # person, vehicle and animal have a front; trees and weeds do not
SIMPLIFIED = 0.5  # pixels by which the points of a polygon may be off


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


def write_shapes(index: int, folder: str, split: str, imgsz: int) -> int:
    """Writes the label files of scene `index` for the tasks segment, pose and obb. Returns the number of objects."""
    objects = shapes(split, index, imgsz)
    rows = {
        "segment": [(each.label, *_polygon(each).flat) for each in objects],
        "pose": [(each.label, *_box_and_keypoints(each, imgsz)) for each in objects if each.label < POSE_CLASSES],
        "obb": [(each.label, *_corners(each, imgsz).flat) for each in objects],
    }
    for task, labels in rows.items():
        # visibilities are the only numbers of a row that are no lengths
        with open(f"{folder}/labels_{task}/{split}/{index:06d}.txt", "w") as file:
            for label, *values in labels:
                numbers = (value if isinstance(value, int) else f"{value / imgsz:.5f}" for value in values)
                file.write(f"{label} {' '.join(map(str, numbers))}\n")
    return len(objects)


def _polygon(shape: Shape) -> np.ndarray:
    contour = shape.outline.astype(np.float32)
    simple = cv2.approxPolyDP(contour, SIMPLIFIED, True).reshape(-1, 2)
    return simple if len(simple) > 2 else contour


def _corners(shape: Shape, imgsz: int) -> np.ndarray:
    """The corners (4, 2) of the rectangle; if it crosses the border, of the least one around the part inside."""
    points = shape.rectangle
    if (points < 0).any() or (points > imgsz).any():
        inside = clip_polygon(points.astype(np.float32), (0, 0, imgsz, imgsz))
        points = corners(rotated(inside[None]))[0].clip(0, imgsz)
    return points


def _box_and_keypoints(shape: Shape, imgsz: int) -> list[float | int]:
    x1, y1, x2, y2 = shape.box
    values: list[float | int] = [(x1 + x2) / 2, (y1 + y2) / 2, float(x2 - x1), float(y2 - y1)]
    for x, y in shape.keypoints().tolist():
        inside = 0 <= x <= imgsz and 0 <= y <= imgsz
        values += [x, y, 2] if inside else [0.0, 0.0, 0]
    return values


WRITERS = {"image": write_image, "shapes": write_shapes}  # what is written of each scene, by name
