"""Renders one scene and its boxes: ground, objects, shadows, lighting and camera effects."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from compress.examples.field_scenes.canvas import SPRITE, Rng, pick
from compress.examples.field_scenes.ground import dim, grid, lay_ground, sensor_noise
from compress.examples.field_scenes.sprites import sprite

GENERATOR_VERSION = 1
CLASSES = ("person", "vehicle", "animal", "tree", "weed")
# split -> (seed, number of images); different seeds, so splits have no image in common
SPLITS: dict[str, tuple[int, int]] = {
    "train": (1001, 12000),
    "validation": (2002, 1000),
    "validation_large": (3003, 3000),
}

_Plan = tuple[int, np.ndarray, float, float]  # class, centre in pixels, length factor, heading in radians

# validation uses sprites and ground tiles that are never used in training
_SPRITES = {"train": range(0, 48), "other": range(48, 72)}
_CLUTTER = {"train": range(0, 60), "other": range(60, 90)}
_TILES = {"train": range(0, 30), "other": range(30, 42)}
_MIN_SHORT, _MAX_LONG = 8.5, 128.0  # limits of an object's sides before rotation

# Mean length in persons, its spread (log-uniform, multiplied or divided by), height in persons (for the shadow),
# weight in the choice of classes, minimum length in pixels. The range of real lengths is compressed, so that objects of
# all classes are visible from one altitude.
_KIND = {
    "person": (1.05, 1.4, 0.55, 1.0, 11.0),
    "vehicle": (1.9, 1.6, 0.55, 1.2, 12.0),
    "animal": (1.45, 1.4, 0.4, 1.0, 12.0),
    "tree": (1.75, 1.8, 0.9, 1.15, 14.0),
    "weed": (1.05, 1.5, 0.08, 1.15, 12.0),
}
_PLACING_ORDER = (3, 1, 0, 2, 4)  # tallest first; later objects lie under earlier ones


@dataclass
class _Item:
    """A warped sprite, clipped to the image."""

    label: int  # class, or -1 for clutter
    rgba: np.ndarray  # premultiplied uint8 (h, w, 4)
    x: int
    y: int
    height: float  # pixels, for the shadow
    rectangle: np.ndarray  # (4, 2) corners of the whole sprite: front left, front right, rear right, rear left

    @property
    def window(self) -> tuple[slice, slice]:
        h, w = self.rgba.shape[:2]
        return slice(self.y, self.y + h), slice(self.x, self.x + w)

    @property
    def solid(self) -> np.ndarray:
        return self.rgba[..., 3] > 89  # alpha above 0.35

    def outline(self) -> np.ndarray:
        """The largest outline (p, 2) of the visible part, through the centres of its pixels."""
        found, _ = cv2.findContours(self.solid.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        largest = max(found, key=cv2.contourArea)
        return largest.reshape(-1, 2) + (self.x + 0.5, self.y + 0.5)

    def box(self) -> tuple[float, float, float, float]:
        x, y, w, h = cv2.boundingRect(self.solid.astype(np.uint8))
        return self.x + x, self.y + y, self.x + x + w, self.y + y + h


def _warp(
    levels: list[np.ndarray], long_side: float, turn: float, flip: bool, centre: np.ndarray, imgsz: int
) -> tuple[np.ndarray, int, int, float, np.ndarray] | None:
    """Scales, rotates (``turn``, in radians) and translates a sprite, and clips it to the image.

    Returns RGBA, its x and y, the fraction of the sprite inside the image, and the sprite's rectangle, see `_Item`;
    None if it is completely outside.
    """
    level = min(int(max(math.log2(SPRITE / long_side), 0)), len(levels) - 1)
    source = levels[level]
    h, w = source.shape[:2]
    scale = long_side / (max(h, w) - 4)  # without the empty border
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
    fraction = np.count_nonzero(inside[..., 3] > 89) / max(total, 1)
    along, across = np.array([c, s]) * (w - 4) / 2, np.array([-s, c]) * (h - 4) / 2  # to its front and its right
    signs = ((1, -1), (1, 1), (-1, 1), (-1, -1))
    rectangle = np.array([centre + 0.5 + a * along + b * across for a, b in signs])
    return inside, x0 + left, y0 + top, fraction, rectangle


def _plan(rng: Rng, zoom: float, imgsz: int) -> list[_Plan]:
    """Plans objects, some in groups such as herds or weed patches; sorted by placing order."""
    plans: list[_Plan] = []
    if rng.random() < 0.035:
        return plans
    count = min(14, 1 + rng.poisson(rng.uniform(1.5, 9.5)))
    weights = np.cumsum([_KIND[name][3] for name in CLASSES])
    while len(plans) < count:
        label = int(np.searchsorted(weights, rng.random() * weights[-1]))
        members = 1 if rng.random() < 0.6 else int(rng.integers(2, 6))
        spread = _KIND[CLASSES[label]][1]
        factor = spread ** rng.uniform(-1, 1)
        centre, heading = rng.uniform(0.02, 0.98, 2) * imgsz, rng.uniform(0, 2 * math.pi)
        reach = zoom * _KIND[CLASSES[label]][0] * rng.uniform(0.8, 1.8)
        for k in range(min(members, count - len(plans))):
            position = centre if k == 0 else centre + rng.normal(0, reach, 2)
            plans.append((label, position, factor * rng.uniform(0.85, 1.15), heading + rng.normal() * 0.7))
    return sorted(plans, key=lambda plan: _PLACING_ORDER.index(plan[0]))


def _place(
    rng: Rng, pool: range, plans: list[_Plan], zoom: float, sun: float, imgsz: int
) -> tuple[list[_Item], np.ndarray]:
    """Places objects in the order given, each at least 60 % visible; also returns the mask that they cover.

    Only trees may hide much of another object, since other objects cannot lie on one another in reality.
    """
    items: list[_Item] = []
    cover, solids = np.zeros((2, imgsz, imgsz), bool)
    unit = imgsz / 256
    for label, centre, factor, heading in plans:
        name = CLASSES[label]
        levels = sprite(name, pick(rng, pool))
        mean, _, height, _, shortest = _KIND[name]
        aspect = max(levels[0].shape[:2]) / min(levels[0].shape[:2])
        long_side = max(zoom * mean * factor, unit * shortest, unit * min(_MIN_SHORT * aspect, 22.0))
        long_side = min(long_side, unit * _MAX_LONG)
        # the sprite of a tree is lit from one side, which must face the sun
        turn = sun + rng.uniform(-0.5, 0.5) if name == "tree" else heading
        for attempt in range(6):
            spot = centre if attempt == 0 else rng.uniform(0.02, 0.98, 2) * imgsz
            warped = _warp(levels, long_side, turn, bool(rng.random() < 0.5), spot, imgsz)
            if warped is None or warped[3] < 0.45:
                continue
            item = _Item(label, *warped[:3], height=height * long_side / mean, rectangle=warped[4])
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
    """Places unlabelled objects, mostly on free ground."""
    imgsz, items = len(cover), []
    for _ in range(min(rng.poisson(2.2), 6)):
        size = float(np.clip(zoom * 1.2 * 2 ** rng.uniform(-1, 1), imgsz / 28, imgsz / 2.2))
        spot, turn = rng.uniform(0, imgsz, 2), rng.uniform(0, 2 * math.pi)
        warped = _warp(sprite("clutter", pick(rng, pool)), size, turn, False, spot, imgsz)
        if warped is None:
            continue
        item = _Item(-1, *warped[:3], height=0.2 * size, rectangle=warped[4])
        if not cover[item.window].any() or rng.random() < 0.15:
            items.append(item)
    return items


def _cast_shadows(rng: Rng, scene: np.ndarray, items: list[_Item], sun: float) -> None:
    """Draws the shadow of each item, and sometimes that of an object that is not in the image."""
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
    dim(scene, 1 - np.float32(depth / 255) * soft)


def _blend(scene: np.ndarray, item: _Item) -> None:
    under = scene[item.window]
    transparency = (255 - item.rgba[..., 3]) * np.float32(1 / 255)
    under *= cv2.merge([transparency] * 3)
    under += item.rgba[..., :3]


def _expose(rng: Rng, scene: np.ndarray) -> np.ndarray:
    """Applies blur, light, clouds, sensor noise and tone curve; float32 scene to uint8 RGB."""
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
    x, y = grid(imgsz)
    light = 1 - rng.uniform(0, 0.13) * (x * x + y * y)
    if rng.random() < 0.3:
        clouds = cv2.resize(rng.random((4, 4), np.float32), (imgsz, imgsz), interpolation=cv2.INTER_CUBIC)
        light *= 1 - rng.uniform(0.15, 0.4) * np.clip(4 * clouds - 1.8, 0, 1)
    warm = rng.uniform(-0.08, 0.08)
    gain = rng.uniform(0.75, 1.2)
    dim(scene, light.astype(np.float32), (gain * (1 + warm), gain, gain * (1 - warm)))
    dx, dy = rng.integers(0, 64, 2)
    grain = sensor_noise(imgsz)[dy : dy + imgsz, dx : dx + imgsz]
    # OpenCV rounds the sum and saturates it to 0..255 in the same pass
    exposed = cv2.addWeighted(scene, 1.0, grain, rng.uniform(1, 7), 0.0, dtype=cv2.CV_8U)
    ramp = 255 * (np.arange(256) / 255) ** rng.uniform(0.8, 1.2)
    return cv2.LUT(exposed, np.round(ramp).astype(np.uint8))


def _placed(split: str, index: int, imgsz: int) -> tuple[Rng, float, float, np.ndarray, list[_Item], np.ndarray]:
    """Plans a scene: its generator, zoom and sun, the ground, the objects and the mask that they cover."""
    rng = np.random.default_rng([GENERATOR_VERSION, SPLITS[split][0], index])
    part = "train" if split == "train" else "other"
    zoom = math.exp(rng.uniform(math.log(9.5), math.log(66))) * imgsz / 256  # length of a person, pixels
    sun = rng.uniform(0, 2 * math.pi)  # direction of the shadows, radians
    scene = lay_ground(rng, _TILES[part], zoom, imgsz)
    objects, cover = _place(rng, _SPRITES[part], _plan(rng, zoom, imgsz), zoom, sun, imgsz)
    return rng, zoom, sun, scene, objects, cover


def render(split: str, index: int, imgsz: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 RGB (imgsz, imgsz, 3) and float32 (n, 5) boxes: class, x1, y1, x2, y2 in pixels."""
    rng, zoom, sun, scene, objects, cover = _placed(split, index, imgsz)
    part = "train" if split == "train" else "other"
    clutter = _place_clutter(rng, _CLUTTER[part], zoom, cover)
    _cast_shadows(rng, scene, objects + clutter, sun)
    for item in clutter + objects[::-1]:  # the tallest were placed first and are drawn last
        _blend(scene, item)
    rows = [(item.label, *item.box()) for item in objects]
    return _expose(rng, scene), np.array(rows, np.float32).reshape(-1, 5)


@dataclass(frozen=True)
class Shape:
    """An object of a scene, as far as it is inside the image. All lengths are in pixels."""

    label: int  # class
    box: tuple[float, float, float, float]  # x1, y1, x2, y2
    outline: np.ndarray  # (p, 2), through the centres of the pixels of its border
    rectangle: np.ndarray  # (4, 2), the least rectangle along its heading, front left first, clockwise; not clipped

    def keypoints(self) -> np.ndarray:
        """The middles (4, 2) of the rectangle's sides: front, right, rear, left."""
        return (self.rectangle + np.roll(self.rectangle, -1, axis=0)) / 2


def shapes(split: str, index: int, imgsz: int = 256) -> list[Shape]:
    """The objects of the scene that `render` draws, without drawing it, in the same order."""
    objects = _placed(split, index, imgsz)[4]
    return [Shape(item.label, item.box(), item.outline(), item.rectangle) for item in objects]
