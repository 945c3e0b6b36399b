"""Training-time augmentation, cheap enough to run on the same two cores as training."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

KEPT_AREA = 0.4  # minimum visible fraction of a box; objects cut further are hard to recognise
SMALLEST_SIDE = 2.0  # pixels
GREY = 114  # padding value, as in letterboxing
MIRROR_X = np.array([1, -1, 1, -1, 1], np.float32)  # factors for class, x1, y1, x2, y2
MIRROR_Y = np.array([1, 1, -1, 1, -1], np.float32)


Window = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
Labelled = tuple[np.ndarray, np.ndarray]  # image uint8 (s, s, c); boxes float32 (n, 5) class, x1, y1, x2, y2 in pixels


@dataclass(frozen=True)
class Augmentation:
    """Random changes that do not change the labels. Aerial images may also be flipped up-down and rotated."""

    flip_left_right: bool = True
    flip_up_down: bool = False
    swap_axes: bool = False  # transposition; with both flips it yields all rotations by multiples of 90 degrees
    scale: tuple[float, float] = (0.7, 1.4)  # range of the scale factor, drawn log-uniformly
    translate: float = 0.1  # maximum shift in either direction, as a fraction of the side
    brightness: float = 0.3  # maximum relative change of the gain of all channels
    colour: float = 0.1  # maximum additional relative change of the gain of each channel
    gamma: float = 0.2  # maximum relative change of the exponent of the tone curve
    mosaic: float = 0.0  # probability of replacing an image by a mosaic of four


AERIAL = Augmentation(flip_up_down=True, swap_axes=True)


def placement(size: tuple[int, int], imgsz: int) -> tuple[int, int, int, int]:
    """Returns width, height, left and top, in pixels, of an image of `size` (width, height) letterboxed to a square."""
    scale = imgsz / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height, (imgsz - width) // 2, (imgsz - height) // 2


def placed_boxes(boxes: np.ndarray, size: tuple[int, int], imgsz: int) -> np.ndarray:
    """Converts boxes (n, 5) of class, centre x, y, width, height as fractions of an image of `size` to class, x1, y1,
    x2, y2 in pixels of the letterboxed square."""
    width, height, left, top = placement(size, imgsz)
    centre = boxes[:, 1:3] * (width, height) + (left, top)
    half = boxes[:, 3:5] * (width / 2, height / 2)
    return np.concatenate([boxes[:, :1], centre - half, centre + half], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Geometry:
    """A random flip, transposition, scaling and shift of square images, applied in this order. Lengths in pixels."""

    side: int  # of the image
    swap_axes: bool
    left_right: bool
    up_down: bool
    size: int  # of the scaled image
    left: int  # of the scaled image in the result
    top: int

    @classmethod
    def draw(cls, side: int, policy: Augmentation, rng: np.random.Generator) -> Geometry:
        allowed = (policy.swap_axes, policy.flip_left_right, policy.flip_up_down)
        swap, left_right, up_down = ((rng.random(3) < 0.5) & allowed).tolist()
        size = round(side * np.exp(rng.uniform(*np.log(policy.scale))))
        left, top = np.rint((side - size) / 2 + rng.uniform(-1, 1, 2) * policy.translate * side).astype(int).tolist()
        return cls(side, swap, left_right, up_down, size, left, top)

    @property
    def is_reflection(self) -> bool:
        """Whether left and right of an object are exchanged, rather than the object turned."""
        return (self.swap_axes + self.left_right + self.up_down) % 2 == 1

    def image(self, image: np.ndarray, *, interpolation: int = cv2.INTER_LINEAR, fill: int = GREY) -> np.ndarray:
        """Moves an image (s, s, c). Pixels outside of it become `fill`."""
        shape = image.shape
        if self.swap_axes:
            few = shape[2] <= 4  # OpenCV transposes no more channels, but these faster
            image = cv2.transpose(image) if few else np.ascontiguousarray(image.transpose(1, 0, 2))
        if self.left_right:
            image = cv2.flip(image, 1)
        if self.up_down:
            image = cv2.flip(image, 0)
        return self._scaled(image.reshape(shape), interpolation, fill)

    def _scaled(self, image: np.ndarray, interpolation: int, fill: int) -> np.ndarray:
        """Scales and translates. A resize and a slice take a third of the time of an affine warp."""
        side, size, left, top = self.side, self.size, self.left, self.top
        resized = cv2.resize(image, (size, size), interpolation=interpolation).reshape(size, size, image.shape[2])
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + size, side), min(top + size, side)
        if (x1, y1, x2, y2, size) == (0, 0, side, side, side):
            return resized
        canvas = np.full_like(image, fill)
        canvas[y1:y2, x1:x2] = resized[y1 - top : y2 - top, x1 - left : x2 - left]
        return canvas

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Moves boxes (n, 5) of class, x1, y1, x2, y2, which may then lie outside the image."""
        if self.swap_axes:
            boxes = boxes[:, [0, 2, 1, 4, 3]]
        if self.left_right:
            boxes = boxes[:, [0, 3, 2, 1, 4]] * MIRROR_X + np.float32(self.side) * (MIRROR_X < 0)
        if self.up_down:
            boxes = boxes[:, [0, 1, 4, 3, 2]] * MIRROR_Y + np.float32(self.side) * (MIRROR_Y < 0)
        boxes = boxes.copy()
        offset = np.array([self.left, self.top, self.left, self.top], np.float32)
        boxes[:, 1:] = boxes[:, 1:] * np.float32(self.size / self.side) + offset
        return boxes

    def points(self, points: np.ndarray) -> np.ndarray:
        """Moves points (n, 2) or more columns, of which the first two are x and y."""
        points = points.copy()
        if self.swap_axes:
            points[:, :2] = points[:, 1::-1]
        if self.left_right:
            points[:, 0] = self.side - points[:, 0]
        if self.up_down:
            points[:, 1] = self.side - points[:, 1]
        points[:, :2] = points[:, :2] * np.float32(self.size / self.side) + np.array([self.left, self.top], np.float32)
        return points


def augment_image(image: np.ndarray, boxes: np.ndarray, policy: Augmentation, rng: np.random.Generator) -> Labelled:
    """Randomly flips, scales, translates and recolours one image. Returns it with the boxes that remain visible."""
    geometry = Geometry.draw(image.shape[0], policy, rng)
    boxes = clip(geometry.boxes(boxes), (0, 0, geometry.side, geometry.side))
    return recolour(geometry.image(image), policy, rng), boxes


def clip(boxes: np.ndarray, window: Window, visible: float = KEPT_AREA) -> np.ndarray:
    """Clips boxes (n, 5) to a window. Drops tiny boxes and those with a fraction < `visible` inside."""
    clipped, kept = clipped_boxes(boxes, window, visible)
    return clipped[kept]


def clipped_boxes(boxes: np.ndarray, window: Window, visible: float = KEPT_AREA) -> tuple[np.ndarray, np.ndarray]:
    """All boxes, clipped to a window, and a mask (n,) of those that `clip` returns."""
    clipped = boxes.copy()
    clipped[:, 1::2] = clipped[:, 1::2].clip(window[0], window[2])
    clipped[:, 2::2] = clipped[:, 2::2].clip(window[1], window[3])
    width, height = clipped[:, 3] - clipped[:, 1], clipped[:, 4] - clipped[:, 2]
    area = (boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2])
    return clipped, (width >= SMALLEST_SIDE) & (height >= SMALLEST_SIDE) & (width * height >= visible * area)


def recolour(image: np.ndarray, policy: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Changes brightness, colour balance and tone curve; of bytes with one look-up table per channel."""
    channels = image.shape[2]
    gain = 1 + policy.brightness * rng.uniform(-1, 1) + policy.colour * rng.uniform(-1, 1, channels)
    exponent = 1 + policy.gamma * rng.uniform(-1, 1)
    if image.dtype != np.uint8:  # of 16-bit files, see `compress.data.pixels`
        curved = (image / np.float32(255)) ** np.float32(exponent)
        return (curved * np.asarray(gain * 255, np.float32)).clip(0, 255)
    curve = np.linspace(0, 1, 256)[:, None] ** exponent * gain * 255
    table = curve.clip(0, 255).astype(np.uint8).reshape(1, 256, channels)
    return cv2.LUT(image, table).reshape(image.shape)


@dataclass(frozen=True)
class Tile:
    """A part of a mosaic."""

    index: int  # of the image
    window: Window  # of that image
    offset: tuple[int, int]  # from the image to the mosaic


def tiles(images: list[np.ndarray], first: int, rng: np.random.Generator) -> tuple[np.ndarray, list[Tile]]:
    """Combines random crops of image `first` and three random ones of a batch, so that no further one is decoded."""
    side = images[0].shape[0]
    cut_x, cut_y = rng.integers(int(0.3 * side), int(0.7 * side) + 1, 2).tolist()
    indices = [first, *rng.integers(len(images), size=3).tolist()]
    canvas, parts = np.empty(images[0].shape, np.result_type(*images)), []
    for index, (x, y) in zip(indices, ((0, 0), (cut_x, 0), (0, cut_y), (cut_x, cut_y)), strict=True):
        width, height = (side - cut_x if x else cut_x), (side - cut_y if y else cut_y)
        left, top = int(rng.integers(side - width + 1)), int(rng.integers(side - height + 1))
        canvas[y : y + height, x : x + width] = images[index][top : top + height, left : left + width]
        parts.append(Tile(index, (left, top, left + width, top + height), (x - left, y - top)))
    return canvas, parts


def mosaic(images: list[np.ndarray], boxes: list[np.ndarray], first: int, rng: np.random.Generator) -> Labelled:
    """Returns a mosaic, see `tiles`, with the boxes that remain visible."""
    canvas, parts = tiles(images, first, rng)
    moved = [clip(boxes[tile.index], tile.window) + np.array([0, *tile.offset * 2], np.float32) for tile in parts]
    return canvas, np.concatenate(moved)
