"""Aerial farm scenes for object detection, generated from a seed.

A scene is a drone's straight-down view of fields with people, vehicles, animals, trees and weeds, under
varied altitude, sun and camera. Image ``i`` of a split depends only on the generator's version, the
split's seed, ``i`` and the image size, so every run and every number of worker processes gives the same
data. Ground tiles and sprites are drawn once per process, on first use; an image then costs a few
warps and blends. Lengths are pixels at 256 px unless stated otherwise and grow with the image size.
"""

from __future__ import annotations

import colorsys
import math
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

GENERATOR_VERSION = 1
CLASSES = ("person", "vehicle", "animal", "tree", "weed")
# split -> (seed, number of images); the seeds differ, so no image is shared
SPLITS: dict[str, tuple[int, int]] = {
    "train": (1001, 12000),
    "validation": (2002, 1000),
    "validation_large": (3003, 3000),
}
CALIBRATION_IMAGES = 512

Rng = np.random.Generator
Colour = np.ndarray  # three floats, RGB, 0..255
_Wanted = tuple[int, np.ndarray, float, float]  # class, centre in pixels, length factor, heading in radians

_LIBRARY_SEED = 77  # of ground tiles and sprites, shared by all splits
# validation draws its sprites and grounds from a part of the library that training never sees
_SPRITES = {"train": range(0, 48), "other": range(48, 72)}
_CLUTTER = {"train": range(0, 60), "other": range(60, 90)}
_TILES = {"train": range(0, 30), "other": range(30, 42)}
_TILE = 1024  # side of a ground tile
_TILE_ZOOM = 40.0  # zoom (length of a person in pixels) at which a tile is shown unscaled
_SPRITE = 240  # longer side of a sprite's finest mip level
_CANVAS = 512  # drawing area of a sprite before it is cropped and scaled down
_MIN_SHORT, _MAX_LONG = 8.5, 128.0  # limits of an object's sides before it is turned

# Mean length in persons, its spread (log-uniform, times/divided by), height in persons (for the shadow),
# weight in the draw of classes, least length in pixels. Real lengths are compressed: one altitude shows all classes.
_KIND = {
    "person": (1.05, 1.4, 0.55, 1.0, 11.0),
    "vehicle": (1.9, 1.6, 0.55, 1.2, 12.0),
    "animal": (1.45, 1.4, 0.4, 1.0, 12.0),
    "tree": (1.75, 1.8, 0.9, 1.15, 14.0),
    "weed": (1.05, 1.5, 0.08, 1.15, 12.0),
}
_PLACING_ORDER = (3, 1, 0, 2, 4)  # tallest first: what is placed later lies under it


# ---------------------------------------------------------------- drawing tools


def _hsv(rng: Rng, hue: Sequence[float], sat: Sequence[float], val: Sequence[float]) -> Colour:
    """A colour with hue in degrees and saturation and value in 0..1 drawn from the ranges."""
    h, s, v = rng.uniform(*hue) % 360 / 360, rng.uniform(*sat), rng.uniform(*val)
    return np.array(colorsys.hsv_to_rgb(h, s, v)) * 255


def _pick(rng: Rng, pool: range) -> int:
    return pool[int(rng.integers(len(pool)))]


def _noise(rng: Rng, size: int, cells: Sequence[int], decay: float = 0.6) -> np.ndarray:
    """Smooth noise (size, size), about -1..1: one octave per number of cells, each ``decay`` weaker."""
    total, weight = np.zeros((size, size), np.float32), 1.0
    for count in cells:
        grid = rng.uniform(-1, 1, (count, count)).astype(np.float32)
        total += weight * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        weight *= decay
    return total / (np.abs(total).max() + 1e-6)


def _pyramid(image: np.ndarray, smallest: int) -> list[np.ndarray]:
    """The image and its halvings (area averages) down to ``smallest`` pixels on the longer side."""
    levels = [image]
    while max(levels[-1].shape[:2]) >= 2 * smallest:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (max(w // 2, 1), max(h // 2, 1)), interpolation=cv2.INTER_AREA))
    return levels


class Pen:
    """Draws a sprite in units of its own; x is the heading, the origin the canvas centre."""

    def __init__(self, rng: Rng, reach: float) -> None:
        self.rng = rng
        self.scale = _CANVAS / 2 / reach
        self.rgb = np.zeros((_CANVAS, _CANVAS, 3), np.uint8)
        self.mask = np.zeros((_CANVAS, _CANVAS), np.uint8)
        self.clip: np.ndarray | None = None  # when set, drawing stays inside this mask

    def poly(self, points: np.ndarray, colour: Colour) -> None:
        pixels = np.round(np.asarray(points) * self.scale + _CANVAS / 2).astype(np.int32)
        ink = tuple(float(c) for c in np.clip(colour, 0, 255))
        if self.clip is not None:
            stencil = cv2.fillPoly(np.zeros_like(self.mask), [pixels], 255)
            self.rgb[(stencil & self.clip) > 0] = ink
            return
        cv2.fillPoly(self.rgb, [pixels], ink)
        cv2.fillPoly(self.mask, [pixels], 255)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour, turn: float = 0.0) -> None:
        t = np.linspace(0, 2 * math.pi, 28, endpoint=False)
        self.poly(_turned(np.stack([rx * np.cos(t), ry * np.sin(t)], 1), turn) + (x, y), colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, colour: Colour) -> None:
        d = np.array([x1 - x0, y1 - y0])
        n = np.array([-d[1], d[0]]) / (np.hypot(*d) + 1e-6) * width / 2
        a, b = np.array([x0, y0]), np.array([x1, y1])
        self.poly(np.stack([a + n, b + n, b - n, a - n]), colour)

    def box(self, x: float, y: float, half_x: float, half_y: float, colour: Colour, cut: float = 0.0) -> None:
        """A rectangle whose corners are cut off by ``cut``."""
        a, b, c = half_x, half_y, cut
        corners = [(a - c, -b), (a, c - b), (a, b - c), (a - c, b), (c - a, b), (-a, b - c), (-a, c - b), (c - a, -b)]
        self.poly(np.array(corners) + (x, y), colour)

    def blob(self, x: float, y: float, radius: float, rough: float, colour: Colour, squash: float = 1.0) -> None:
        """A disc with an irregular outline."""
        t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
        r = np.full(40, radius)
        for k in range(2, 7):
            r += radius * rough / k * self.rng.normal() * np.cos(k * t + self.rng.uniform(0, 6.3))
        self.poly(np.stack([r * np.cos(t), squash * r * np.sin(t)], 1) + (x, y), colour)

    def finish(self, texture: float, rim: float = 0.35) -> list[np.ndarray]:
        """Mip levels of the sprite as premultiplied uint8 RGBA; the rim is darkened so it looks round."""
        inside = cv2.GaussianBlur(self.mask, (0, 0), 9).astype(np.float32) / 255
        light = 1 - rim * np.clip(2 - 2 * inside, 0, 1)
        light *= 1 + texture * _noise(self.rng, _CANVAS, (6, 24, 90, 200), 0.9)
        alpha = self.mask[..., None].astype(np.float32) / 255
        rgba = np.concatenate([np.clip(self.rgb * light[..., None], 0, 255) * alpha, alpha * 255], 2)
        x, y, w, h = cv2.boundingRect(self.mask)
        scale = _SPRITE / max(w, h)
        size = (max(round(w * scale), 4), max(round(h * scale), 4))
        small = cv2.resize(rgba[y : y + h, x : x + w], size, interpolation=cv2.INTER_AREA)
        # an empty border lets the edge fade out when the sprite is turned
        levels = _pyramid(np.clip(small, 0, 255).astype(np.uint8), 10)
        return [cv2.copyMakeBorder(level, 2, 2, 2, 2, cv2.BORDER_CONSTANT) for level in levels]


def _turned(points: np.ndarray, angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


# ---------------------------------------------------------------- sprites


def _draw_person(rng: Rng) -> list[np.ndarray]:
    pen, side = Pen(rng, 1.0), rng.choice([-1, 1])
    hivis = rng.random() < 0.3
    shirt = _hsv(rng, (25, 75), (0.85, 1), (0.9, 1)) if hivis else _hsv(rng, (0, 360), (0.1, 0.9), (0.3, 1))
    trousers = _hsv(rng, (200, 260), (0.1, 0.6), (0.15, 0.6))
    skin = _hsv(rng, (15, 30), (0.3, 0.6), (0.4, 0.95))
    stride, swing = rng.uniform(0.15, 0.42), rng.uniform(0.05, 0.4)
    for s in (-1, 1):
        reach = s * side * stride
        pen.line(0, 0.17 * s, reach, 0.17 * s, 0.2, trousers)
        pen.ellipse(reach + 0.1, 0.17 * s, 0.16, 0.09, _hsv(rng, (20, 40), (0.2, 0.6), (0.08, 0.3)))
        hand = -reach / max(stride, 0.1) * swing
        pen.line(0, 0.4 * s, hand, 0.5 * s, 0.17, shirt * 0.82)
        pen.ellipse(hand, 0.5 * s, 0.1, 0.1, skin)
    if rng.random() < 0.2:  # a rake, hoe or stick
        pen.line(0.2, 0.5, 0.75, 0.35, 0.06, np.array([150, 110, 70]))
    pen.ellipse(0, 0, 0.24, 0.47, shirt)
    if hivis:
        for y in (-0.27, 0.27):
            pen.line(-0.2, y, 0.2, y, 0.07, np.array([225, 225, 215]))
    elif rng.random() < 0.3:
        pen.box(-0.2, 0, 0.13, 0.24, _hsv(rng, (0, 360), (0.3, 0.9), (0.2, 0.7)), 0.05)
    pen.ellipse(0.06, 0, 0.22, 0.2, skin)
    style = rng.integers(4)
    if style == 0:  # straw hat
        straw = _hsv(rng, (35, 50), (0.2, 0.5), (0.75, 0.98))
        pen.ellipse(0.04, 0, 0.31, 0.3, straw)
        pen.ellipse(0.03, 0, 0.19, 0.18, straw * 0.7)
        pen.ellipse(0.03, 0, 0.15, 0.14, straw * 1.03)
    elif style == 1:  # helmet or cap with a peak
        cap = _hsv(rng, (0, 360), (0.1, 0.75), (0.4, 0.95))
        pen.ellipse(0.18, 0, 0.14, 0.14, cap * 0.75)
        pen.ellipse(0.04, 0, 0.2, 0.19, cap)
    else:
        pen.ellipse(0.02, 0, 0.21, 0.2, _hsv(rng, (15, 40), (0.2, 0.7), (0.08, 0.6)))
    return pen.finish(0.1, 0.25)


def _draw_vehicle(rng: Rng) -> list[np.ndarray]:
    kind = rng.integers(4)
    return (_draw_tractor, _draw_tractor, _draw_pickup, _draw_truck)[kind](rng)


def _paint(rng: Rng) -> Colour:
    if rng.random() < 0.3:
        return _hsv(rng, (0, 360), (0, 0.1), (0.25, 0.98))
    return _hsv(rng, rng.choice([(0, 12), (110, 135), (205, 225), (28, 52)]), (0.65, 0.95), (0.45, 0.95))


_RUBBER, _GLASS = np.array([34.0, 33, 32]), np.array([52.0, 66, 80])


def _draw_tractor(rng: Rng) -> list[np.ndarray]:
    pen, paint = Pen(rng, 1.2), _paint(rng)
    if rng.random() < 0.45:  # an implement at the back
        tool, half = _hsv(rng, (0, 240), (0.2, 0.8), (0.3, 0.7)), rng.uniform(0.5, 0.95)
        pen.line(-1.1, 0, -0.6, 0, 0.12, tool * 0.6)
        pen.box(-0.98, 0, 0.09, half, tool)
        for y in np.linspace(-half, half, 7):
            pen.line(-1.12, y, -0.85, y, 0.06, tool * 0.5)
    for s in (-1, 1):
        pen.box(-0.42, 0.46 * s, 0.38, 0.15, _RUBBER, 0.06)
        for x in np.linspace(-0.72, -0.12, 8):
            pen.line(x, 0.34 * s, x + 0.05, 0.58 * s, 0.025, _RUBBER * 2)
        pen.box(0.66, 0.36 * s, 0.22, 0.1, _RUBBER * 1.2, 0.04)
    pen.line(0.66, -0.36, 0.66, 0.36, 0.1, _RUBBER * 1.6)
    pen.box(0.36, 0, 0.58, 0.2, paint, 0.06)
    pen.line(-0.1, 0, 0.9, 0, 0.1, paint * 1.25)
    pen.box(0.88, 0, 0.06, 0.16, paint * 0.4)
    pen.ellipse(0.3, 0.14, 0.05, 0.05, _RUBBER)
    pen.box(-0.42, 0, 0.36, 0.4, paint * 0.8, 0.08)
    if rng.random() < 0.75:  # cab
        pen.box(-0.3, 0, 0.36, 0.34, _GLASS, 0.05)
        pen.box(-0.36, 0, 0.3, 0.31, paint if rng.random() < 0.5 else _hsv(rng, (0, 60), (0, 0.1), (0.7, 1)), 0.08)
        pen.box(-0.36, 0, 0.14, 0.14, paint * 0.65)
    else:  # open seat and steering wheel
        pen.box(-0.45, 0, 0.16, 0.15, _RUBBER, 0.05)
        pen.ellipse(-0.15, 0, 0.1, 0.12, _RUBBER * 1.5)
    return pen.finish(0.1, 0.25)


def _draw_pickup(rng: Rng) -> list[np.ndarray]:
    pen, paint, width = Pen(rng, 1.1), _paint(rng), rng.uniform(0.4, 0.48)
    for x in (-0.6, 0.62):
        pen.box(x, 0, 0.17, width + 0.04, _RUBBER)
    pen.box(0, 0, 1.0, width, paint, 0.12)
    pen.box(0.7, 0, 0.22, width * 0.7, paint * 1.12, 0.05)
    for s in (-1, 1):
        pen.box(0.93, 0.3 * s, 0.05, 0.08, np.array([235, 232, 210]))
        pen.box(0.3, (width + 0.03) * s, 0.05, 0.05, paint * 0.6)
    pen.poly(np.array([(0.46, -0.4), (0.46, 0.4), (0.26, 0.32), (0.26, -0.32)]) * (1, width / 0.44), _GLASS)
    pen.box(0.05, 0, 0.24, width * 0.8, paint * 1.05, 0.04)
    pen.box(-0.22, 0, 0.06, width * 0.75, _GLASS)
    if rng.random() < 0.7:  # open bed, sometimes loaded
        pen.box(-0.63, 0, 0.31, width * 0.8, paint * 0.35)
        for y in np.linspace(-0.25, 0.25, 5):
            pen.line(-0.92, y, -0.34, y, 0.02, paint * 0.5)
        for _ in range(rng.integers(0, 5)):
            cargo = _hsv(rng, (20, 60), (0.1, 0.7), (0.4, 0.9))
            pen.box(rng.uniform(-0.82, -0.45), rng.uniform(-0.2, 0.2), rng.uniform(0.06, 0.14), 0.1, cargo)
    else:
        pen.box(-0.62, 0, 0.32, width * 0.8, paint * 0.92, 0.04)
    return pen.finish(0.06, 0.25)


def _draw_truck(rng: Rng) -> list[np.ndarray]:
    pen, paint, width = Pen(rng, 1.35), _paint(rng), rng.uniform(0.34, 0.42)
    for x in (-1.0, -0.72, 0.75):
        pen.box(x, 0, 0.13, width + 0.03, _RUBBER)
    pen.line(-0.9, 0, 0.8, 0, 0.3, _RUBBER * 1.5)
    pen.box(0.88, 0, 0.3, width, paint, 0.07)
    pen.box(1.06, 0, 0.07, width * 0.85, _GLASS)
    pen.box(0.78, 0, 0.14, width * 0.8, paint * 1.15, 0.03)
    wall = _hsv(rng, (0, 360), (0, 0.6), (0.45, 0.95))
    pen.box(-0.38, 0, 0.88, width, wall)
    load = rng.integers(3)
    if load == 0:  # closed box with ribs
        for x in np.linspace(-1.2, 0.45, 10):
            pen.line(x, -width, x, width, 0.03, wall * 0.8)
    else:  # grain, soil or hay in an open box
        fill = (
            _hsv(rng, (28, 50), (0.3, 0.75), (0.35, 0.9)) if load == 1 else _hsv(rng, (80, 120), (0.4, 0.6), (0.3, 0.5))
        )
        pen.box(-0.38, 0, 0.82, width - 0.07, fill)
        for _ in range(140):
            x, y = rng.uniform(-1.15, 0.4), rng.uniform(0.09 - width, width - 0.09)
            pen.ellipse(x, y, 0.05, 0.03, fill * rng.uniform(0.7, 1.25), rng.uniform(0, 3))
    return pen.finish(0.07, 0.2)


def _coat(rng: Rng, kind: int) -> Colour:
    dark = _hsv(rng, (10, 35), (0.3, 0.75), (0.12, 0.5))
    pale = _hsv(rng, (30, 50), (0.03, 0.25), (0.75, 0.98))
    chance = (0.5, 0.9, 0.2, 0.5)[kind]  # pale cow, sheep, horse, goat
    return pale if rng.random() < chance else dark


def _draw_animal(rng: Rng) -> list[np.ndarray]:
    kind = int(rng.integers(4))  # cow, sheep, horse, goat
    pen, coat = Pen(rng, 1.25), _coat(rng, kind)
    width = (0.3, 0.36, 0.23, 0.2)[kind] * rng.uniform(0.9, 1.1)
    bend = rng.uniform(-0.35, 0.35)  # how far the head turns
    nx, ny = 0.95, bend * (1.3 if kind == 2 else 0.8)
    leg, tail = coat * 0.5, coat * (0.35 if kind == 2 else 0.7)
    for x in (-0.45, 0.42):
        for s in (-1, 1):
            shift = rng.uniform(-0.14, 0.14)
            pen.line(x, s * width * 0.6, x + shift, s * (width + 0.06), 0.11, leg)
    tip = rng.uniform(-0.25, 0.25)
    pen.line(-0.65, 0, -0.98 if kind != 3 else -0.8, tip, 0.12 if kind == 2 else 0.06, tail)
    pen.line(0.45, 0, nx, ny, 0.3 if kind == 2 else 0.25, coat * 0.93)
    face = coat * 0.85 if kind != 1 else _coat(rng, 2) * rng.choice([1.0, 0.5])
    heading = math.atan2(ny, 0.5)
    ahead = np.array([math.cos(heading), math.sin(heading)])
    for s in (-1, 1):
        side = np.array([-ahead[1], ahead[0]]) * s
        ex, ey = np.array([nx, ny]) - ahead * 0.08 + side * 0.17
        pen.ellipse(ex, ey, 0.05, 0.11, face * 0.8, heading + 0.4 * s)
        if kind in (0, 3):
            hx, hy = np.array([nx, ny]) + side * 0.12 + ahead * (0.12 if kind == 0 else -0.25)
            pen.line(nx, ny, hx, hy, 0.05, np.array([215, 205, 180]))
    pen.ellipse(nx + 0.06 * ahead[0], ny + 0.06 * ahead[1], 0.21, 0.12, face, heading)
    pen.ellipse(nx + 0.22 * ahead[0], ny + 0.22 * ahead[1], 0.06, 0.08, face * 0.5, heading)
    before = pen.mask.copy()
    pen.mask[:] = 0
    pen.ellipse(0, 0, 0.62, width, coat)
    pen.ellipse(-0.42, 0, 0.28, width * 0.95, coat)
    pen.ellipse(0.36, 0, 0.3, width * 0.9, coat)
    body, pen.mask = pen.mask, pen.mask | before
    _mark_coat(pen, kind, coat, body, width, (nx, ny))
    return pen.finish(0.14 if kind != 1 else 0.2, 0.4)


def _mark_coat(pen: Pen, kind: int, coat: Colour, body: np.ndarray, width: float, neck: tuple[float, float]) -> None:
    """Patches of a cow or goat, wool of a sheep, mane of a horse, and the lit line of the back."""
    rng = pen.rng
    if kind == 1:
        for _ in range(120):
            a, r = rng.uniform(0, 6.3), math.sqrt(rng.random())
            x, y = 0.62 * r * math.cos(a), width * r * math.sin(a)
            pen.ellipse(x, y, 0.08, 0.08, coat * rng.uniform(0.8, 1.1))
        return
    pen.clip = body
    if kind in (0, 3) and rng.random() < 0.65:
        patch = coat * 0.2 if coat.mean() > 120 else _hsv(rng, (30, 50), (0, 0.15), (0.8, 0.97))
        for _ in range(rng.integers(3, 7)):
            pen.blob(rng.uniform(-0.6, 0.6), rng.uniform(-width, width), rng.uniform(0.1, 0.24), 0.6, patch)
    else:
        pen.line(-0.6, 0, 0.5, 0, width * 0.5, coat * 1.15)
    pen.clip = None
    if kind == 2:
        pen.line(0.3, 0, neck[0] - 0.05, neck[1], 0.1, coat * 0.35)


def _draw_tree(rng: Rng) -> list[np.ndarray]:
    pen = Pen(rng, 1.15)
    autumn, kind = rng.random() < 0.22, rng.random()
    leaf = _hsv(rng, (22, 55), (0.55, 0.8), (0.5, 0.8)) if autumn else _hsv(rng, (75, 135), (0.35, 0.7), (0.25, 0.55))
    if kind < 0.27:
        _draw_conifer(pen, _hsv(rng, (100, 155), (0.3, 0.6), (0.22, 0.42)))
        return pen.finish(0.25, 0.3)
    spread, airy = rng.uniform(0.1, 0.22), rng.random() < 0.2
    lobes = [(rng.uniform(0, 6.3), rng.uniform(0.15, 0.5), rng.uniform(0.4, 0.62)) for _ in range(rng.integers(4, 8))]
    for _ in range(130 if airy else 190):
        a, off, size = lobes[rng.integers(len(lobes))]
        t, r = rng.uniform(0, 6.3), size * math.sqrt(rng.random())
        x, y = off * math.cos(a) + r * math.cos(t), off * math.sin(a) + r * math.sin(t)
        # the light comes from -x; leaves on that side of a lobe are lit, the others lie in shade
        lit = 0.95 - 0.4 * (r / size) * math.cos(t) - 0.15 * x + rng.normal() * 0.13
        pen.blob(x, y, spread * rng.uniform(0.5, 1), 0.5, leaf * max(lit, 0.35))
    return pen.finish(0.35, 0.25)


def _draw_conifer(pen: Pen, leaf: Colour) -> None:
    """Rings of branches, each a star, the upper ones smaller and lighter."""
    rng, rays = pen.rng, int(pen.rng.integers(12, 20))
    for level, radius in enumerate(np.linspace(1.0, 0.2, 6)):
        t = np.linspace(0, 2 * math.pi, 2 * rays, endpoint=False) + rng.uniform(0, 1)
        r = radius * np.where(np.arange(2 * rays) % 2, rng.uniform(0.5, 0.65), rng.uniform(0.85, 1.05, 2 * rays))
        star = np.stack([r * np.cos(t), r * np.sin(t)], 1)
        shade = 0.6 + 0.16 * level
        pen.poly(star, leaf * shade)
        pen.poly(star * 0.8 - (0.08 * radius, 0), leaf * (shade + 0.12))
    pen.ellipse(0, 0, 0.06, 0.06, leaf * 2)


def _draw_weed(rng: Rng) -> list[np.ndarray]:
    pen, count = Pen(rng, 1.15), int(rng.integers(5, 10))
    hue = [(55, 75), (140, 175), (85, 110), (330, 380)][rng.choice(4, p=[0.3, 0.35, 0.2, 0.15])]
    leaf = _hsv(rng, hue, (0.3, 0.75), (0.4, 0.8))
    wide, round_tip, teeth = rng.uniform(0.16, 0.3), rng.random() < 0.4, rng.random() < 0.35
    for ring, scale in enumerate((1.0, 0.62)):
        turn = rng.uniform(0, 6.3)
        for k in range(count - 2 * ring):
            length = scale * rng.uniform(0.75, 1.05)
            angle = turn + 2 * math.pi * k / (count - 2 * ring) + rng.normal() * 0.12
            t = np.linspace(0, 1, 22)
            half = wide * (np.sin(math.pi * t**1.9) ** 0.7 if round_tip else np.sin(math.pi * t**0.8) * (1.1 - 0.4 * t))
            if teeth:
                half = half * np.where(np.arange(22) % 4 < 2, 1.15, 0.5)
            edge = np.concatenate([np.stack([t * length, half], 1), np.stack([t * length, -half], 1)[::-1]])
            shade = rng.uniform(0.85, 1.1) * (0.85 + 0.25 * ring)
            pen.poly(_turned(edge, angle), leaf * shade * 0.7)
            pen.poly(_turned(edge * (0.95, 0.78), angle), leaf * shade)
            end = _turned(np.array([[0.9 * length, 0]]), angle)[0]
            pen.line(0, 0, *end, 0.035, leaf * shade * 1.4)
    pen.ellipse(0, 0, 0.1, 0.1, leaf * 0.65)
    if rng.random() < 0.3:
        petals = _hsv(rng, [(48, 58), (270, 310), (0, 360)][rng.integers(3)], (0.1, 0.9), (0.85, 1))
        for _ in range(rng.integers(1, 4)):
            x, y = rng.normal(0, 0.25, 2)
            for a in np.arange(6) * 1.05:
                pen.ellipse(x + 0.1 * math.cos(a), y + 0.1 * math.sin(a), 0.09, 0.06, petals, a)
            pen.ellipse(x, y, 0.06, 0.06, np.array([190, 140, 30]))
    return pen.finish(0.15, 0.15)


def _draw_clutter(rng: Rng) -> list[np.ndarray]:
    """Unlabelled things that a detector may confuse with objects."""
    pen, kind = Pen(rng, 1.2), rng.integers(8)
    if kind == 0:  # rock
        grey = _hsv(rng, (20, 50), (0.03, 0.2), (0.4, 0.75))
        for k in range(5):
            pen.blob(-0.06 * k, -0.04 * k, 0.9 - 0.17 * k, 0.5, grey * (0.75 + 0.1 * k), 0.75)
    elif kind == 1:  # round hay bale, from above or lying
        straw = _hsv(rng, (38, 50), (0.3, 0.6), (0.65, 0.9))
        if rng.random() < 0.5:
            for k, r in enumerate(np.linspace(1.0, 0.1, 9)):
                pen.ellipse(0, 0, r, r, straw * (0.85 if k % 2 else 1.05))
        else:
            pen.box(0, 0, 0.9, 0.7, straw, 0.06)
            for x in np.linspace(-0.85, 0.85, 14):
                pen.line(x, -0.7, x, 0.7, 0.03, straw * rng.uniform(0.75, 1.15))
    elif kind == 2:  # puddle
        water = _hsv(rng, (30, 220), (0.1, 0.35), (0.2, 0.5))
        pen.blob(0, 0, 0.8, 0.9, water * 0.75, 0.7)
        pen.blob(0, 0, 0.6, 0.7, water, 0.7)
        pen.blob(0.15, 0.1, 0.25, 0.6, water * 1.4, 0.5)
    elif kind == 3:  # tarp with folds
        cloth = _hsv(rng, (0, 360), (0.1, 0.8), (0.4, 0.9))
        pen.poly(np.array([(-1, -0.8), (1, -0.7), (0.9, 0.75), (-0.85, 0.85)]) * rng.uniform(0.6, 1, (4, 2)), cloth)
        pen.clip = pen.mask.copy()
        for _ in range(7):
            x, y = rng.uniform(-0.8, 0.8, 2)
            pen.line(x, -1, y, 1, 0.07, cloth * rng.uniform(0.75, 1.15))
    elif kind == 4:  # crate or pallet
        wood = _hsv(rng, (25, 40), (0.25, 0.55), (0.5, 0.85))
        pen.box(0, 0, 0.95, 0.75, wood * 0.35)
        for y in np.linspace(-0.66, 0.66, 6):
            pen.line(-0.95, y, 0.95, y, 0.16, wood * rng.uniform(0.85, 1.1))
    elif kind == 5:  # log
        bark = _hsv(rng, (18, 35), (0.25, 0.5), (0.25, 0.5))
        pen.box(0, 0, 1.05, 0.17, bark, 0.05)
        for y in np.linspace(-0.12, 0.12, 5):
            pen.line(-1, y, 0.95, y + rng.normal() * 0.03, 0.025, bark * rng.uniform(0.6, 1.4))
        pen.ellipse(1.03, 0, 0.07, 0.17, np.array([205, 175, 125]))
    elif kind == 6:  # sacks
        sack = _hsv(rng, (30, 60), (0.02, 0.2), (0.75, 0.97))
        for k in range(rng.integers(1, 4)):
            pen.box(0.1 * k, 0.6 * (k - 1), 0.55, 0.26, sack * rng.uniform(0.9, 1.05), 0.12)
            pen.line(0.1 * k - 0.4, 0.6 * (k - 1), 0.1 * k + 0.4, 0.6 * (k - 1), 0.05, sack * 0.75)
    else:  # water trough
        metal = _hsv(rng, (180, 230), (0.02, 0.15), (0.5, 0.8))
        pen.box(0, 0, 1.05, 0.38, metal, 0.14)
        pen.box(0, 0, 0.94, 0.27, _hsv(rng, (150, 220), (0.2, 0.5), (0.2, 0.45)), 0.1)
    return pen.finish(0.18, 0.25)


_DRAW: dict[str, Callable[[Rng], list[np.ndarray]]] = {
    "person": _draw_person,
    "vehicle": _draw_vehicle,
    "animal": _draw_animal,
    "tree": _draw_tree,
    "weed": _draw_weed,
    "clutter": _draw_clutter,
}


@cache
def _sprite(name: str, variant: int) -> list[np.ndarray]:
    """Mip levels of one variant, the same in every process."""
    return _DRAW[name](np.random.default_rng([_LIBRARY_SEED, list(_DRAW).index(name), variant]))


# ---------------------------------------------------------------- ground


@cache
def _ground(variant: int) -> list[np.ndarray]:
    """Mip levels (uint8 RGB) of a ground tile; crop rows run along x."""
    rng = np.random.default_rng([_LIBRARY_SEED, 100, variant])
    soil = _hsv(rng, (16, 42), (0.15, 0.55), (0.35, 0.75))
    crop = _hsv(rng, (72, 120), (0.35, 0.65), (0.35, 0.62))
    coarse, fine = _noise(rng, _TILE, (5, 11, 37), 0.6), _noise(rng, _TILE, (130, 260, 512), 1.0)
    tile = soil * (1 + 0.16 * coarse + 0.16 * fine)[..., None]
    kind = variant % 6
    pitch = _TILE / rng.integers(16, 34)
    wobble = _noise(rng, _TILE, (6, 30), 0.5) * pitch * 0.12
    phase = np.cos((np.arange(_TILE, dtype=np.float32)[:, None] + wobble) * (2 * math.pi / pitch))
    if kind == 1:  # furrows
        tile *= (1 + rng.uniform(0.1, 0.2) * phase)[..., None]
    elif kind == 2:  # closed rows
        cover = np.clip((phase + 0.5 * fine + 0.3 * coarse) * 2.5 + rng.uniform(-0.3, 1), 0, 1)[..., None]
        tile = tile * (1 - cover) + cover * crop * (0.95 + 0.12 * phase + 0.3 * fine)[..., None]
    elif kind == 4:  # pasture
        dry = np.clip(0.5 + 0.7 * coarse, 0, 1)[..., None] * rng.uniform(0.2, 0.7)
        tile = (crop * (1 - dry) + _hsv(rng, (50, 70), (0.35, 0.5), (0.5, 0.65)) * dry) * (1 + 0.22 * fine)[..., None]
    tile = np.clip(tile, 0, 255).astype(np.uint8)
    if kind == 0:
        _plant_rows(tile, rng, crop, pitch)
    elif kind in (3, 4):  # stubble or tufts of grass
        stem = _hsv(rng, (38, 50), (0.3, 0.5), (0.6, 0.85)) if kind == 3 else crop * 0.85
        _scatter_stems(tile, rng, stem, pitch if kind == 3 else 0.0)
    return _pyramid(np.ascontiguousarray(tile), 64)


def _plant_rows(tile: np.ndarray, rng: Rng, crop: Colour, pitch: float) -> None:
    """Seedlings of three leaves, evenly spaced along rows with some gaps."""
    for y in np.arange(pitch / 2, _TILE, pitch):
        for x in np.arange(0, _TILE, pitch * 0.7):
            if rng.random() < 0.12:
                continue
            centre, size = rng.normal((x, y), pitch * 0.06), pitch * rng.uniform(0.13, 0.24)
            for angle in rng.uniform(0, 360) + np.array([0, 130, 230]):
                away = centre + size * 0.7 * np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
                ink = tuple(np.clip(crop * rng.uniform(0.75, 1.25), 0, 255).tolist())
                cv2.ellipse(tile, (away.tolist(), (2 * size, size), float(angle)), ink, -1, cv2.LINE_AA)


def _scatter_stems(tile: np.ndarray, rng: Rng, stem: Colour, pitch: float) -> None:
    """Short strokes, along rows of the given pitch or everywhere."""
    for x, y in rng.uniform(0, _TILE, (9000, 2)):
        if pitch:
            y = (y // pitch + 0.5) * pitch + rng.normal() * pitch * 0.16
        end = (x, y) + rng.normal(0, 6, 2)
        ink = tuple(np.clip(stem * rng.uniform(0.7, 1.2), 0, 255).tolist())
        cv2.line(tile, (int(x), int(y)), (int(end[0]), int(end[1])), ink, 1, cv2.LINE_AA)


@lru_cache(maxsize=4)
def _grid(imgsz: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel, -1..1."""
    axis = np.linspace(-1, 1, imgsz, dtype=np.float32)
    return axis[None, :], axis[:, None]


@lru_cache(maxsize=4)
def _sensor_noise(imgsz: int) -> np.ndarray:
    """Unit noise, larger than the image; a random crop of it is cheaper than fresh noise."""
    rng = np.random.default_rng([_LIBRARY_SEED, 200])
    grey = rng.standard_normal((imgsz + 64, imgsz + 64, 1), np.float32)
    return 0.8 * grey + 0.6 * rng.standard_normal((imgsz + 64, imgsz + 64, 3), np.float32)


def _field(rng: Rng, pool: range, zoom: float, imgsz: int) -> np.ndarray:
    """A random ground tile, turned and scaled to the altitude (zoom in output pixels), uint8 RGB."""
    levels = _ground(_pick(rng, pool))
    scale = zoom / _TILE_ZOOM * rng.uniform(0.8, 1.25)
    level = int(np.clip(math.floor(math.log2(1 / scale)), 0, len(levels) - 1))
    scale *= 2**level
    turn, side = rng.uniform(0, 2 * math.pi), levels[level].shape[0]
    c, s = math.cos(turn) / scale, math.sin(turn) / scale
    tx, ty = rng.uniform(0, side, 2)
    warp = np.array([[c, -s, tx], [s, c, ty]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(levels[level], warp, (imgsz, imgsz), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def _dim(scene: np.ndarray, light: np.ndarray, gain: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
    """Multiply by a mask and a gain per channel, in place; several times quicker than broadcasting."""
    cv2.multiply(scene, cv2.merge([light * np.float32(g) for g in gain]), dst=scene)


def _lay_ground(rng: Rng, pool: range, zoom: float, imgsz: int) -> np.ndarray:
    """One field or two with a straight border, sometimes a dirt track; float32 RGB 0..255."""
    ground = _field(rng, pool, zoom, imgsz)
    x, y = _grid(imgsz)
    turn = rng.uniform(0, 2 * math.pi)
    across = x * math.cos(turn) + y * math.sin(turn) - rng.uniform(-0.7, 0.7)  # half images from the border
    soft = imgsz / rng.uniform(3, 12)
    if rng.random() < 0.4:
        share = np.clip(across * np.float32(soft) + np.float32(0.5), 0, 1)
        ground = cv2.blendLinear(ground, _field(rng, pool, zoom, imgsz), 1 - share, share)
    if rng.random() < 0.28:
        half = zoom * rng.uniform(0.9, 1.5) / imgsz * 2
        colour = _hsv(rng, (25, 40), (0.12, 0.4), (0.5, 0.75))
        ruts = np.clip(1 - np.abs(np.abs(across) - half * 0.55) / (half * 0.3), 0, 1)
        share = (np.clip((half - np.abs(across)) * soft + 0.5, 0, 1) * (0.4 + 0.5 * ruts)).astype(np.float32)
        dirt = np.full_like(ground, np.round(colour))
        ground = cv2.blendLinear(ground, dirt, 1 - share, share)
    return ground.astype(np.float32)


# ---------------------------------------------------------------- scene


@dataclass
class _Item:
    """A warped sprite, clipped to the image."""

    label: int  # class, or -1 for clutter
    rgba: np.ndarray  # premultiplied uint8 (h, w, 4)
    x: int
    y: int
    height: float  # pixels, for the shadow

    @property
    def window(self) -> tuple[slice, slice]:
        h, w = self.rgba.shape[:2]
        return slice(self.y, self.y + h), slice(self.x, self.x + w)

    @property
    def solid(self) -> np.ndarray:
        return self.rgba[..., 3] > 89  # alpha above 0.35

    def box(self) -> tuple[float, float, float, float]:
        x, y, w, h = cv2.boundingRect(self.solid.astype(np.uint8))
        return self.x + x, self.y + y, self.x + x + w, self.y + y + h


def _warp(
    levels: list[np.ndarray], long_side: float, turn: float, flip: bool, centre: np.ndarray, imgsz: int
) -> tuple[np.ndarray, int, int, float] | None:
    """The sprite at that size, heading and centre (all in pixels), clipped to the image.

    Returns RGBA, its x and y, and the share inside the image; None where it lies outside.
    """
    level = min(int(max(math.log2(_SPRITE / long_side), 0)), len(levels) - 1)
    source = levels[level]
    h, w = source.shape[:2]
    scale = long_side / (max(h, w) - 4)  # less the empty border
    c, s = scale * math.cos(turn), scale * math.sin(turn)
    m = -1 if flip else 1
    half_w = (abs(c) * w + abs(s) * h) / 2 + 1
    half_h = (abs(s) * w + abs(c) * h) / 2 + 1
    x0, y0 = math.floor(centre[0] - half_w), math.floor(centre[1] - half_h)
    size = (math.ceil(2 * half_w) + 1, math.ceil(2 * half_h) + 1)
    cx, cy = centre[0] - x0, centre[1] - y0
    ox, oy = (w - 1) / 2, (h - 1) / 2
    matrix = np.array([[c, -s * m, cx - c * ox + s * m * oy], [s, c * m, cy - s * ox - c * m * oy]])
    patch = cv2.warpAffine(source, matrix, size, flags=cv2.INTER_LINEAR)
    left, top = max(-x0, 0), max(-y0, 0)
    right, bottom = min(size[0], imgsz - x0), min(size[1], imgsz - y0)
    if right <= left or bottom <= top:
        return None
    inside = patch[top:bottom, left:right]
    total = int(np.count_nonzero(patch[..., 3] > 89))
    share = np.count_nonzero(inside[..., 3] > 89) / max(total, 1)
    return inside, x0 + left, y0 + top, share


def _plan(rng: Rng, zoom: float, imgsz: int) -> list[_Wanted]:
    """Wanted objects, in groups such as a herd or a weed patch."""
    wanted: list[_Wanted] = []
    if rng.random() < 0.035:
        return wanted
    count = min(14, 1 + rng.poisson(rng.uniform(1.5, 9.5)))
    shares = np.cumsum([_KIND[name][3] for name in CLASSES])
    while len(wanted) < count:
        label = int(np.searchsorted(shares, rng.random() * shares[-1]))
        members = 1 if rng.random() < 0.6 else int(rng.integers(2, 6))
        spread = _KIND[CLASSES[label]][1]
        factor = spread ** rng.uniform(-1, 1)
        centre, heading = rng.uniform(0.02, 0.98, 2) * imgsz, rng.uniform(0, 2 * math.pi)
        reach = zoom * _KIND[CLASSES[label]][0] * rng.uniform(0.8, 1.8)
        for k in range(min(members, count - len(wanted))):
            place = centre if k == 0 else centre + rng.normal(0, reach, 2)
            wanted.append((label, place, factor * rng.uniform(0.85, 1.15), heading + rng.normal() * 0.7))
    return sorted(wanted, key=lambda want: _PLACING_ORDER.index(want[0]))


def _place(
    rng: Rng, pool: range, wanted: list[_Wanted], zoom: float, sun: float, imgsz: int
) -> tuple[list[_Item], np.ndarray]:
    """Place the wanted objects tallest first, each at least 60 % visible; also the mask they cover.

    Only trees hide much: other things that lie on one another would be impossible.
    """
    items: list[_Item] = []
    cover, solids = np.zeros((2, imgsz, imgsz), bool)
    unit = imgsz / 256
    for label, centre, factor, heading in wanted:
        name = CLASSES[label]
        levels = _sprite(name, _pick(rng, pool))
        mean, _, height, _, least = _KIND[name]
        narrow = max(levels[0].shape[:2]) / min(levels[0].shape[:2])
        long_side = max(zoom * mean * factor, unit * least, unit * min(_MIN_SHORT * narrow, 22.0))
        long_side = min(long_side, unit * _MAX_LONG)
        # trees are lit from the sun's side in the sprite, so they keep that side towards the sun
        turn = sun + rng.uniform(-0.5, 0.5) if name == "tree" else heading
        for attempt in range(6):
            spot = centre if attempt == 0 else rng.uniform(0.02, 0.98, 2) * imgsz
            warped = _warp(levels, long_side, turn, bool(rng.random() < 0.5), spot, imgsz)
            if warped is None or warped[3] < 0.45:
                continue
            item = _Item(label, *warped[:3], height=height * long_side / mean)
            x1, y1, x2, y2 = item.box()
            if max(x2 - x1, y2 - y1) < 9 * unit or min(x2 - x1, y2 - y1) < 7 * unit:
                continue
            solid, under = item.solid, cover[item.window]
            blocked, area = solids[item.window], np.count_nonzero(solid)
            if np.count_nonzero(solid & under) <= 0.4 * area and np.count_nonzero(solid & blocked) <= 0.08 * area:
                under |= solid
                if name != "tree":
                    blocked |= solid
                items.append(item)
                break
    return items, cover


def _place_clutter(rng: Rng, pool: range, zoom: float, cover: np.ndarray) -> list[_Item]:
    """Unlabelled things, mostly on free ground."""
    imgsz, items = len(cover), []
    for _ in range(min(rng.poisson(2.2), 6)):
        size = float(np.clip(zoom * 1.2 * 2 ** rng.uniform(-1, 1), imgsz / 28, imgsz / 2.2))
        spot, turn = rng.uniform(0, imgsz, 2), rng.uniform(0, 2 * math.pi)
        warped = _warp(_sprite("clutter", _pick(rng, pool)), size, turn, False, spot, imgsz)
        if warped is None:
            continue
        item = _Item(-1, *warped[:3], height=0.2 * size)
        if not cover[item.window].any() or rng.random() < 0.15:
            items.append(item)
    return items


def _cast_shadows(rng: Rng, scene: np.ndarray, items: list[_Item], sun: float) -> None:
    """Darken the ground beside each item, away from the sun, and at times a shadow of something unseen."""
    imgsz = len(scene)
    length, depth = rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.6)
    shade = np.zeros((imgsz, imgsz), np.uint8)
    for item in items:
        for part in (0.4, 1.0):
            dx = round(part * length * item.height * math.cos(sun))
            dy = round(part * length * item.height * math.sin(sun))
            h, w = item.rgba.shape[:2]
            x, y = item.x + dx, item.y + dy
            left, top, right, bottom = max(-x, 0), max(-y, 0), min(w, imgsz - x), min(h, imgsz - y)
            if right > left and bottom > top:
                under = shade[y + top : y + bottom, x + left : x + right]
                np.maximum(under, item.rgba[top:bottom, left:right, 3], out=under)
    if rng.random() < 0.25:
        spot, axes = rng.uniform(0, imgsz, 2).tolist(), (rng.uniform(0.05, 0.25, 2) * imgsz).tolist()
        cv2.ellipse(shade, (spot, axes, float(rng.uniform(0, 180))), 255, -1)
    soft = cv2.GaussianBlur(shade, (0, 0), rng.uniform(0.6, 1.8) * imgsz / 256).astype(np.float32)
    _dim(scene, 1 - np.float32(depth / 255) * soft)


def _blend(scene: np.ndarray, item: _Item) -> None:
    under = scene[item.window]
    keep = (255 - item.rgba[..., 3]) * np.float32(1 / 255)
    under *= cv2.merge([keep, keep, keep])
    under += item.rgba[..., :3]


def _expose(rng: Rng, scene: np.ndarray) -> np.ndarray:
    """Clouds, light, lens and sensor: float32 scene to uint8 RGB."""
    imgsz = len(scene)
    unit = imgsz / 256
    blur = rng.random()
    if blur < 0.35:
        scene = cv2.GaussianBlur(scene, (0, 0), rng.uniform(0.3, 0.85) * unit)
    elif blur < 0.5:  # motion
        size = 2 * math.ceil(1.5 * unit) + 1
        kernel = np.zeros((size, size), np.float32)
        angle, arm = rng.uniform(0, math.pi), rng.uniform(0.6, 1.4) * unit
        tip = (round(arm * math.cos(angle)), round(arm * math.sin(angle)))
        cv2.line(kernel, (size // 2 - tip[0], size // 2 - tip[1]), (size // 2 + tip[0], size // 2 + tip[1]), 1.0)
        scene = cv2.filter2D(scene, -1, kernel / kernel.sum())
    x, y = _grid(imgsz)
    light = 1 - rng.uniform(0, 0.13) * (x * x + y * y)
    if rng.random() < 0.3:
        clouds = cv2.resize(rng.random((4, 4), np.float32), (imgsz, imgsz), interpolation=cv2.INTER_CUBIC)
        light *= 1 - rng.uniform(0.15, 0.4) * np.clip(4 * clouds - 1.8, 0, 1)
    warm = rng.uniform(-0.08, 0.08)
    gain = rng.uniform(0.75, 1.2)
    _dim(scene, light.astype(np.float32), (gain * (1 + warm), gain, gain * (1 - warm)))
    dx, dy = rng.integers(0, 64, 2)
    grain = _sensor_noise(imgsz)[dy : dy + imgsz, dx : dx + imgsz]
    # the sum is rounded and saturated to 0..255 in the same pass
    exposed = cv2.addWeighted(scene, 1.0, grain, rng.uniform(1, 7), 0.0, dtype=cv2.CV_8U)
    ramp = 255 * (np.arange(256) / 255) ** rng.uniform(0.8, 1.2)
    return cv2.LUT(exposed, np.round(ramp).astype(np.uint8))


def render(split: str, index: int, imgsz: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """uint8 RGB (imgsz, imgsz, 3) and float32 (n, 5) rows of class, x1, y1, x2, y2 in pixels."""
    rng = np.random.default_rng([GENERATOR_VERSION, SPLITS[split][0], index])
    part = "train" if split == "train" else "other"
    zoom = math.exp(rng.uniform(math.log(9.5), math.log(66))) * imgsz / 256  # length of a person
    sun = rng.uniform(0, 2 * math.pi)  # the direction in which shadows fall
    scene = _lay_ground(rng, _TILES[part], zoom, imgsz)
    objects, cover = _place(rng, _SPRITES[part], _plan(rng, zoom, imgsz), zoom, sun, imgsz)
    clutter = _place_clutter(rng, _CLUTTER[part], zoom, cover)
    _cast_shadows(rng, scene, objects + clutter, sun)
    for item in clutter + objects[::-1]:  # the tallest were placed first and are drawn last
        _blend(scene, item)
    rows = [(item.label, *item.box()) for item in objects]
    return _expose(rng, scene), np.array(rows, np.float32).reshape(-1, 5)


# ---------------------------------------------------------------- data set on disk


def _write_image(index: int, folder: str, split: str, imgsz: int) -> int:
    """Write one image and its label file; returns the number of boxes."""
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


def _start_worker() -> None:
    cv2.setNumThreads(1)  # the processes share the cores


def _each(task: Callable[[int], int], count: int, workers: int) -> Iterator[int]:
    if workers <= 1:
        yield from map(task, range(count))
        return
    # spawn, since forking a process that already runs torch or OpenCV threads can hang
    with multiprocessing.get_context("spawn").Pool(workers, _start_worker) as pool:
        yield from pool.imap(task, range(count), chunksize=32)


def write_split(folder: Path, split: str, count: int, imgsz: int, workers: int = 2) -> None:
    """Write ``images/<split>/000000.jpg`` and ``labels/<split>/000000.txt`` (class cx cy w h, normalised)."""
    for kind in ("images", "labels"):
        Path(folder, kind, split).mkdir(parents=True, exist_ok=True)
    task = partial(_write_image, folder=str(folder), split=split, imgsz=imgsz)
    workers = workers if count >= 64 else 1  # a few images are quicker than starting processes
    for _ in tqdm(_each(task, count, workers), total=count, desc=f"field scenes: {split}", unit="image", disable=None):
        pass


def _write_lists(folder: Path, splits: Sequence[str], counts: Mapping[str, int]) -> None:
    """data.yaml, and calibration.txt where there is a training split."""
    keys = {"train": "train", "val": "validation", "test": "validation_large"}
    lines = ["path: ."] + [f"{key}: images/{split}" for key, split in keys.items() if split in splits]
    lines += ["names:"] + [f"  {k}: {name}" for k, name in enumerate(CLASSES)]
    (folder / "data.yaml").write_text("\n".join(lines) + "\n")
    if "train" in splits:
        rng = np.random.default_rng([GENERATOR_VERSION, SPLITS["train"][0], 512])
        chosen = np.sort(rng.permutation(counts["train"])[: min(CALIBRATION_IMAGES, counts["train"] // 3)])
        (folder / "calibration.txt").write_text("".join(f"images/train/{i:06d}.jpg\n" for i in chosen))


def prepare(
    root: Path,
    imgsz: int = 256,
    splits: Sequence[str] = ("train", "validation"),
    counts: Mapping[str, int] | None = None,
    workers: int = 2,
) -> Path:
    """The data set's folder under ``root``, made if it is not there; splits already complete are reused.

    ``counts`` replaces the number of images of the splits it names. The folder's name holds the generator's
    version, the image size and the counts of all splits, so different data never share a folder.
    """
    sizes = {split: (counts or {}).get(split, size) for split, (_, size) in SPLITS.items()}
    name = "-".join(str(size) for size in sizes.values())
    folder = Path(root) / f"field_scenes-v{GENERATOR_VERSION}-{imgsz}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        marker = folder / f"{split}.complete"
        if marker.exists():
            continue
        for kind in ("images", "labels"):  # what an interrupted run left
            shutil.rmtree(folder / kind / split, ignore_errors=True)
        write_split(folder, split, sizes[split], imgsz, workers)
        started = folder / f"{split}.writing"
        started.write_text(f"{sizes[split]}\n")
        started.rename(marker)
    present = [split for split in SPLITS if (folder / f"{split}.complete").exists()]
    _write_lists(folder, present, sizes)
    return folder
