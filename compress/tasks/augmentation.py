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


def augment_image(image: np.ndarray, boxes: np.ndarray, policy: Augmentation, rng: np.random.Generator) -> Labelled:
    """Randomly flips, scales, translates and recolours one image. Returns it with the boxes that remain visible."""
    image, boxes = _scale_and_shift(*_flip(image, boxes, policy, rng), policy, rng)
    return _recolour(image, policy, rng), boxes


def _flip(image: np.ndarray, boxes: np.ndarray, policy: Augmentation, rng: np.random.Generator) -> Labelled:
    shape, side = image.shape, image.shape[0]
    allowed = (policy.swap_axes, policy.flip_left_right, policy.flip_up_down)
    swap, left_right, up_down = (rng.random(3) < 0.5) & allowed
    if swap:
        few = shape[2] <= 4  # OpenCV transposes no more channels, but these faster
        image = cv2.transpose(image) if few else np.ascontiguousarray(image.transpose(1, 0, 2))
        boxes = boxes[:, [0, 2, 1, 4, 3]]
    if left_right:
        image = cv2.flip(image, 1)
        boxes = boxes[:, [0, 3, 2, 1, 4]] * MIRROR_X + np.float32(side) * (MIRROR_X < 0)
    if up_down:
        image = cv2.flip(image, 0)
        boxes = boxes[:, [0, 1, 4, 3, 2]] * MIRROR_Y + np.float32(side) * (MIRROR_Y < 0)
    return image.reshape(shape), boxes


def _scale_and_shift(image: np.ndarray, boxes: np.ndarray, policy: Augmentation, rng: np.random.Generator) -> Labelled:
    """Scales and translates. A resize and a slice take a third of the time of an affine warp."""
    side, channels = image.shape[0], image.shape[2]
    size = round(side * np.exp(rng.uniform(*np.log(policy.scale))))
    left, top = np.rint((side - size) / 2 + rng.uniform(-1, 1, 2) * policy.translate * side).astype(int).tolist()
    resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR).reshape(size, size, channels)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + size, side), min(top + size, side)
    canvas = resized
    if (x1, y1, x2, y2, size) != (0, 0, side, side, side):
        canvas = np.full_like(image, GREY)
        canvas[y1:y2, x1:x2] = resized[y1 - top : y2 - top, x1 - left : x2 - left]
    boxes = boxes.copy()
    boxes[:, 1:] = boxes[:, 1:] * np.float32(size / side) + np.array([left, top, left, top], np.float32)
    return canvas, clip(boxes, (0, 0, side, side))


def clip(boxes: np.ndarray, window: tuple[float, float, float, float], visible: float = KEPT_AREA) -> np.ndarray:
    """Clips boxes (n, 5) to a window x1, y1, x2, y2. Drops tiny boxes and those with a fraction < `visible` inside."""
    clipped = boxes.copy()
    clipped[:, 1::2] = clipped[:, 1::2].clip(window[0], window[2])
    clipped[:, 2::2] = clipped[:, 2::2].clip(window[1], window[3])
    width, height = clipped[:, 3] - clipped[:, 1], clipped[:, 4] - clipped[:, 2]
    area = (boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2])
    keep = (width >= SMALLEST_SIDE) & (height >= SMALLEST_SIDE) & (width * height >= visible * area)
    return clipped[keep]


def _recolour(image: np.ndarray, policy: Augmentation, rng: np.random.Generator) -> np.ndarray:
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


def mosaic(images: list[np.ndarray], boxes: list[np.ndarray], first: int, rng: np.random.Generator) -> Labelled:
    """Combines random crops of image `first` and three random ones of a batch, so that no further one is decoded."""
    side = images[0].shape[0]
    cut_x, cut_y = rng.integers(int(0.3 * side), int(0.7 * side) + 1, 2).tolist()
    indices = [first, *rng.integers(len(images), size=3).tolist()]
    canvas, parts = np.empty(images[0].shape, np.result_type(*images)), []
    for index, (x, y) in zip(indices, ((0, 0), (cut_x, 0), (0, cut_y), (cut_x, cut_y)), strict=True):
        width, height = (side - cut_x if x else cut_x), (side - cut_y if y else cut_y)
        left, top = int(rng.integers(side - width + 1)), int(rng.integers(side - height + 1))
        canvas[y : y + height, x : x + width] = images[index][top : top + height, left : left + width]
        clipped = clip(boxes[index], (left, top, left + width, top + height))
        parts.append(clipped + np.array([0, x - left, y - top, x - left, y - top], np.float32))
    return canvas, np.concatenate(parts)
