"""Ground of the scenes: tiles of soil, crop rows, stubble and pasture, drawn once and warped to any altitude."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache

import cv2
import numpy as np

from compress.examples.field_scenes.canvas import LIBRARY_SEED, Colour, Rng, hsv, noise, pick, pyramid

_TILE = 1024  # side of a ground tile, pixels
_TILE_ZOOM = 40.0  # zoom (length of a person in pixels) at which a tile is shown unscaled


@cache
def _ground(variant: int) -> list[np.ndarray]:
    """Mip levels (uint8 RGB) of a ground tile; crop rows run along x."""
    rng = np.random.default_rng([LIBRARY_SEED, 100, variant])
    soil = hsv(rng, (16, 42), (0.15, 0.55), (0.35, 0.75))
    crop = hsv(rng, (72, 120), (0.35, 0.65), (0.35, 0.62))
    coarse, fine = noise(rng, _TILE, (5, 11, 37), 0.6), noise(rng, _TILE, (130, 260, 512), 1.0)
    tile = soil * (1 + 0.16 * coarse + 0.16 * fine)[..., None]
    kind = variant % 6
    pitch = _TILE / rng.integers(16, 34)
    wobble = noise(rng, _TILE, (6, 30), 0.5) * pitch * 0.12
    phase = np.cos((np.arange(_TILE, dtype=np.float32)[:, None] + wobble) * (2 * math.pi / pitch))
    if kind == 1:  # furrows
        tile *= (1 + rng.uniform(0.1, 0.2) * phase)[..., None]
    elif kind == 2:  # closed rows
        cover = np.clip((phase + 0.5 * fine + 0.3 * coarse) * 2.5 + rng.uniform(-0.3, 1), 0, 1)[..., None]
        tile = tile * (1 - cover) + cover * crop * (0.95 + 0.12 * phase + 0.3 * fine)[..., None]
    elif kind == 4:  # pasture
        dry = np.clip(0.5 + 0.7 * coarse, 0, 1)[..., None] * rng.uniform(0.2, 0.7)
        tile = (crop * (1 - dry) + hsv(rng, (50, 70), (0.35, 0.5), (0.5, 0.65)) * dry) * (1 + 0.22 * fine)[..., None]
    tile = np.clip(tile, 0, 255).astype(np.uint8)
    if kind == 0:
        _plant_rows(tile, rng, crop, pitch)
    elif kind in (3, 4):  # stubble or tufts of grass
        stem = hsv(rng, (38, 50), (0.3, 0.5), (0.6, 0.85)) if kind == 3 else crop * 0.85
        _scatter_stems(tile, rng, stem, pitch if kind == 3 else 0.0)
    return pyramid(np.ascontiguousarray(tile), 64)


def _plant_rows(tile: np.ndarray, rng: Rng, crop: Colour, pitch: float) -> None:
    """Draws seedlings with three leaves, evenly spaced in rows, with some gaps."""
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
    """Draws short strokes in rows at distance ``pitch``, or everywhere if it is 0."""
    for x, y in rng.uniform(0, _TILE, (9000, 2)):
        if pitch:
            y = (y // pitch + 0.5) * pitch + rng.normal() * pitch * 0.16
        end = (x, y) + rng.normal(0, 6, 2)
        ink = tuple(np.clip(stem * rng.uniform(0.7, 1.2), 0, 255).tolist())
        cv2.line(tile, (int(x), int(y)), (int(end[0]), int(end[1])), ink, 1, cv2.LINE_AA)


@lru_cache(maxsize=4)
def grid(imgsz: int) -> tuple[np.ndarray, np.ndarray]:
    """x (1, imgsz) and y (imgsz, 1) of the pixels, in -1..1."""
    axis = np.linspace(-1, 1, imgsz, dtype=np.float32)
    return axis[None, :], axis[:, None]


@lru_cache(maxsize=4)
def sensor_noise(imgsz: int) -> np.ndarray:
    """Noise of unit variance, larger than the image: a random crop is cheaper than new noise."""
    rng = np.random.default_rng([LIBRARY_SEED, 200])
    grey = rng.standard_normal((imgsz + 64, imgsz + 64, 1), np.float32)
    return 0.8 * grey + 0.6 * rng.standard_normal((imgsz + 64, imgsz + 64, 3), np.float32)


def _field(rng: Rng, pool: range, zoom: float, imgsz: int) -> np.ndarray:
    """A random ground tile, rotated and scaled to the altitude (``zoom``: length of a person in pixels), uint8 RGB."""
    levels = _ground(pick(rng, pool))
    scale = zoom / _TILE_ZOOM * rng.uniform(0.8, 1.25)
    level = int(np.clip(math.floor(math.log2(1 / scale)), 0, len(levels) - 1))
    scale *= 2**level
    turn, side = rng.uniform(0, 2 * math.pi), levels[level].shape[0]
    c, s = math.cos(turn) / scale, math.sin(turn) / scale
    tx, ty = rng.uniform(0, side, 2)
    warp = np.array([[c, -s, tx], [s, c, ty]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(levels[level], warp, (imgsz, imgsz), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def dim(scene: np.ndarray, light: np.ndarray, gain: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
    """Multiplies by a mask and a gain per channel, in place. Several times faster than NumPy broadcasting."""
    cv2.multiply(scene, cv2.merge([light * np.float32(g) for g in gain]), dst=scene)


def lay_ground(rng: Rng, pool: range, zoom: float, imgsz: int) -> np.ndarray:
    """One field, or two with a straight border, sometimes with a dirt track; float32 RGB 0..255."""
    ground = _field(rng, pool, zoom, imgsz)
    x, y = grid(imgsz)
    turn = rng.uniform(0, 2 * math.pi)
    across = x * math.cos(turn) + y * math.sin(turn) - rng.uniform(-0.7, 0.7)  # from the border, in half image sides
    soft = imgsz / rng.uniform(3, 12)
    if rng.random() < 0.4:
        alpha = np.clip(across * np.float32(soft) + np.float32(0.5), 0, 1)
        ground = cv2.blendLinear(ground, _field(rng, pool, zoom, imgsz), 1 - alpha, alpha)
    if rng.random() < 0.28:
        half = zoom * rng.uniform(0.9, 1.5) / imgsz * 2
        colour = hsv(rng, (25, 40), (0.12, 0.4), (0.5, 0.75))
        ruts = np.clip(1 - np.abs(np.abs(across) - half * 0.55) / (half * 0.3), 0, 1)
        alpha = (np.clip((half - np.abs(across)) * soft + 0.5, 0, 1) * (0.4 + 0.5 * ruts)).astype(np.float32)
        dirt = np.full_like(ground, np.round(colour))
        ground = cv2.blendLinear(ground, dirt, 1 - alpha, alpha)
    return ground.astype(np.float32)
