"""Training-time augmentation, cheap enough to share two cores with the training itself.

Flips copy memory, zoom and shift are one resize, colour is one look-up table, and a mosaic is cut from images of the
same batch, so it decodes nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

KEPT_AREA = 0.4  # a box that loses more of its area at the border names something no longer recognisable
SMALLEST_SIDE = 2.0  # pixels
GREY = 114  # what lies beyond the image, as in the letterbox
MIRROR_X = np.array([1, -1, 1, -1, 1], np.float32)  # of class, x1, y1, x2, y2
MIRROR_Y = np.array([1, 1, -1, 1, -1], np.float32)


@dataclass(frozen=True)
class Augmentation:
    """What may change without changing what is seen. Views from above have no up: flip and turn them freely."""

    flip_left_right: bool = True
    flip_up_down: bool = False
    swap_axes: bool = False  # together with both flips this makes every quarter turn
    scale: tuple[float, float] = (0.7, 1.4)
    translate: float = 0.1  # share of the image side, either way
    brightness: float = 0.3  # gain of all channels, share either way
    colour: float = 0.1  # further gain of each channel on its own, share either way
    gamma: float = 0.2  # exponent of the tone curve, share either way
    mosaic: float = 0.0  # probability that an image is made of four


def placement(size: tuple[int, int], imgsz: int) -> tuple[int, int, int, int]:
    """Width, height, left and top, in pixels, of an image of `size` (width, height) letterboxed into a square."""
    scale = imgsz / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height, (imgsz - width) // 2, (imgsz - height) // 2


AERIAL = Augmentation(flip_up_down=True, swap_axes=True)


def augment_image(
    image: np.ndarray, boxes: np.ndarray, policy: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Turns, zooms, moves and recolours one image.

    Args:
        image: uint8 (s, s, c).
        boxes: float32 (n, 5) class, x1, y1, x2, y2 in pixels; (0, 5) for classification.

    Returns:
        The new image and the boxes still in it, of the same kinds.
    """
    image, boxes = _zoom(*_flip(image, boxes, policy, rng), policy, rng)
    return _recolour(image, policy, rng), boxes


def _flip(
    image: np.ndarray, boxes: np.ndarray, policy: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    shape, side = image.shape, image.shape[0]
    swap, left_right, up_down = (rng.random(3) < 0.5) & (
        policy.swap_axes,
        policy.flip_left_right,
        policy.flip_up_down,
    )
    if swap:
        image, boxes = cv2.transpose(image), boxes[:, [0, 2, 1, 4, 3]]
    if left_right:
        image, boxes = (
            cv2.flip(image, 1),
            boxes[:, [0, 3, 2, 1, 4]] * MIRROR_X + np.float32(side) * (MIRROR_X < 0),
        )
    if up_down:
        image, boxes = (
            cv2.flip(image, 0),
            boxes[:, [0, 1, 4, 3, 2]] * MIRROR_Y + np.float32(side) * (MIRROR_Y < 0),
        )
    return image.reshape(shape), boxes


def _zoom(
    image: np.ndarray, boxes: np.ndarray, policy: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and moves. A resize and a slice cost a third of what an affine warp does."""
    side, channels = image.shape[0], image.shape[2]
    size = round(side * np.exp(rng.uniform(*np.log(policy.scale))))
    left, top = np.rint((side - size) / 2 + rng.uniform(-1, 1, 2) * policy.translate * side).astype(int).tolist()
    resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR).reshape(size, size, channels)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + size, side), min(top + size, side)
    canvas = resized
    if (x1, y1, x2, y2, size) != (0, 0, side, side, side):
        canvas = np.full_like(image, GREY)
        canvas[y1:y2, x1:x2] = resized[y1 - top : y2 - top, x1 - left : x2 - left]
    moved = boxes.copy()
    moved[:, 1:] = moved[:, 1:] * np.float32(size / side) + np.array([left, top, left, top], np.float32)
    return canvas, clip(moved, (0, 0, side, side))


def clip(boxes: np.ndarray, window: tuple[float, float, float, float], kept: float = KEPT_AREA) -> np.ndarray:
    """Boxes (n, 5) cut to the window x1, y1, x2, y2, without those that lose more than 1 - `kept` of their area."""
    cut = boxes.copy()
    cut[:, 1::2] = cut[:, 1::2].clip(window[0], window[2])
    cut[:, 2::2] = cut[:, 2::2].clip(window[1], window[3])
    width, height = cut[:, 3] - cut[:, 1], cut[:, 4] - cut[:, 2]
    area = (boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2])
    seen = (width >= SMALLEST_SIDE) & (height >= SMALLEST_SIDE) & (width * height >= kept * area)
    return cut[seen]


def _recolour(image: np.ndarray, policy: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Brightness, colour cast and tone curve as one look-up table per channel."""
    channels = image.shape[2]
    gain = 1 + policy.brightness * rng.uniform(-1, 1) + policy.colour * rng.uniform(-1, 1, channels)
    exponent = 1 + policy.gamma * rng.uniform(-1, 1)
    curve = np.linspace(0, 1, 256)[:, None] ** exponent * gain * 255
    table = curve.clip(0, 255).astype(np.uint8).reshape(1, 256, channels)
    return cv2.LUT(image, table).reshape(image.shape)


def mosaic(
    images: list[np.ndarray], boxes: list[np.ndarray], first: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Four images of a batch, the `first` and three drawn ones, each shown through a random window of its own."""
    side = images[0].shape[0]
    cut_x, cut_y = rng.integers(int(0.3 * side), int(0.7 * side) + 1, 2).tolist()
    chosen = [first, *rng.integers(len(images), size=3).tolist()]
    canvas, kept = np.empty_like(images[0]), []
    for index, (x, y) in zip(chosen, ((0, 0), (cut_x, 0), (0, cut_y), (cut_x, cut_y)), strict=True):
        width, height = (side - cut_x if x else cut_x), (side - cut_y if y else cut_y)
        left, top = int(rng.integers(side - width + 1)), int(rng.integers(side - height + 1))
        canvas[y : y + height, x : x + width] = images[index][top : top + height, left : left + width]
        seen = clip(boxes[index], (left, top, left + width, top + height))
        kept.append(seen + np.array([0, x - left, y - top, x - left, y - top], np.float32))
    return canvas, np.concatenate(kept)
