"""Aerial farm scenes for object detection, generated from a seed.

A scene is a drone's straight-down view of fields with people, vehicles, animals, trees and weeds, under
varied altitude, sun and camera. Image ``i`` of a split depends only on the generator's version, the
split's seed, ``i`` and the image size, so every run and every number of worker processes gives the same
data. Ground tiles and sprites are drawn once per process, on first use; an image then costs a few
warps and blends. Lengths are pixels at 256 px unless stated otherwise and grow with the image size.
"""

from compress.examples.field_scenes.files import CALIBRATION_IMAGES, prepare, write_split
from compress.examples.field_scenes.scene import CLASSES, GENERATOR_VERSION, SPLITS, render

__all__ = ["CALIBRATION_IMAGES", "CLASSES", "GENERATOR_VERSION", "SPLITS", "prepare", "render", "write_split"]
