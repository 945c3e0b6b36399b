"""Drawing tools for sprites and ground tiles: canvas, colours, noise, mip levels."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import cv2
import numpy as np

Rng = np.random.Generator
Range = tuple[float, float]
Colour = np.ndarray  # three floats, RGB, 0..255

LIBRARY_SEED = 77  # seed of ground tiles and sprites, the same for all splits
SPRITE = 240  # longer side of a sprite's finest mip level, pixels
_CANVAS = 512  # side of the drawing area, pixels; sprites are cropped and scaled down from it


def hsv(rng: Rng, hue: Range, sat: Range, val: Range) -> Colour:
    """Draws a random colour from ranges of hue (degrees), saturation and value (0..1)."""
    h, s, v = rng.uniform(*hue) % 360 / 360, rng.uniform(*sat), rng.uniform(*val)
    return np.array(colorsys.hsv_to_rgb(h, s, v)) * 255


def pick(rng: Rng, pool: range) -> int:
    return pool[int(rng.integers(len(pool)))]


def noise(rng: Rng, size: int, cells: Sequence[int], decay: float = 0.6) -> np.ndarray:
    """Smooth noise (size, size) in -1..1: one octave per entry of ``cells``, each weaker by the factor ``decay``."""
    total, weight = np.zeros((size, size), np.float32), 1.0
    for count in cells:
        grid = rng.uniform(-1, 1, (count, count)).astype(np.float32)
        total += weight * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        weight *= decay
    return total / (np.abs(total).max() + 1e-6)


def pyramid(image: np.ndarray, smallest: int) -> list[np.ndarray]:
    """Mip levels: the image and its halvings, down to a longer side of at least ``smallest`` pixels."""
    levels = [image]
    while max(levels[-1].shape[:2]) >= 2 * smallest:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (max(w // 2, 1), max(h // 2, 1)), interpolation=cv2.INTER_AREA))
    return levels


class Canvas:
    """Drawing area of a sprite, from -``reach`` to ``reach`` on both axes; objects face the positive x axis."""

    def __init__(self, rng: Rng, reach: float) -> None:
        self.rng = rng
        self.scale = _CANVAS / 2 / reach
        self.rgb = np.zeros((_CANVAS, _CANVAS, 3), np.uint8)
        self.mask = np.zeros((_CANVAS, _CANVAS), np.uint8)
        self.clip: np.ndarray | None = None  # if set, only pixels inside this mask are drawn

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
        self.poly(rotated(np.stack([rx * np.cos(t), ry * np.sin(t)], 1), turn) + (x, y), colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, colour: Colour) -> None:
        d = np.array([x1 - x0, y1 - y0])
        n = np.array([-d[1], d[0]]) / (np.hypot(*d) + 1e-6) * width / 2
        a, b = np.array([x0, y0]), np.array([x1, y1])
        self.poly(np.stack([a + n, b + n, b - n, a - n]), colour)

    def box(self, x: float, y: float, half_x: float, half_y: float, colour: Colour, cut: float = 0.0) -> None:
        """A rectangle with corners cut off by ``cut``."""
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
        """Returns the sprite's mip levels, premultiplied uint8 RGBA. A darkened rim makes it look round."""
        inside = cv2.GaussianBlur(self.mask, (0, 0), 9).astype(np.float32) / 255
        light = 1 - rim * np.clip(2 - 2 * inside, 0, 1)
        light *= 1 + texture * noise(self.rng, _CANVAS, (6, 24, 90, 200), 0.9)
        alpha = self.mask[..., None].astype(np.float32) / 255
        rgba = np.concatenate([np.clip(self.rgb * light[..., None], 0, 255) * alpha, alpha * 255], 2)
        x, y, w, h = cv2.boundingRect(self.mask)
        scale = SPRITE / max(w, h)
        size = (max(round(w * scale), 4), max(round(h * scale), 4))
        small = cv2.resize(rgba[y : y + h, x : x + w], size, interpolation=cv2.INTER_AREA)
        # The empty border antialiases the edge when the sprite is rotated.
        levels = pyramid(np.clip(small, 0, 255).astype(np.uint8), 10)
        return [cv2.copyMakeBorder(level, 2, 2, 2, 2, cv2.BORDER_CONSTANT) for level in levels]


def rotated(points: np.ndarray, angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return points @ np.array([[c, s], [-s, c]])
