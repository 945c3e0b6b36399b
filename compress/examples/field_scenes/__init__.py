"""Aerial farm scenes with boxes, masks, keypoints and turned boxes, generated from a seed.

A scene is a drone's nadir view of fields with people, vehicles, animals, trees and weeds, with random altitude, sun and
camera. Image ``i`` of a split depends only on the generator's version, the split's seed, ``i`` and the image size, so
the data do not depend on the number of worker processes. Ground tiles and sprites are drawn once per process, on first
use; an image then needs only a few warps and blends. Lengths are in pixels for images of 256 pixels, unless stated
otherwise, and scale with the image size.
"""

from compress.examples.field_scenes.files import CALIBRATION_IMAGES, SHAPES, prepare, write_split
from compress.examples.field_scenes.scene import CLASSES, GENERATOR_VERSION, SPLITS, render, shapes

__all__ = [
    "CALIBRATION_IMAGES", "CLASSES", "GENERATOR_VERSION", "SHAPES", "SPLITS", "prepare", "render", "shapes",
    "write_split",
]  # fmt: skip
