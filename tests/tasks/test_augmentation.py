from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress.tasks.augmentation import AERIAL, Augmentation, augment_image, clip, mosaic

SIDE = 96
COLOURLESS = replace(AERIAL, brightness=0.0, colour=0.0, gamma=0.0)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A black image with one white and one red rectangle, and their boxes."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[20:50, 30:40] = 255
    image[60:72, 55:85] = (255, 0, 0)
    return image, np.array([[0, 30, 20, 40, 50], [1, 55, 60, 85, 72]], np.float32)


def extent(mask: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


def test_boxes_follow_the_pixels() -> None:
    seen = set()
    for seed in range(60):
        image, boxes = augment_image(*scene(), COLOURLESS, np.random.default_rng(seed))
        assert image.shape == (SIDE, SIDE, 3) and image.dtype == np.uint8 and boxes.dtype == np.float32
        white = np.all(image > 128, axis=2)
        for label, mask in ((0, white), (1, (image[:, :, 0] > 128) & ~white & (image[:, :, 1] < 90))):
            for box in boxes[boxes[:, 0] == label]:
                assert np.abs(extent(mask) - box[1:]).max() <= 1.5
                wide = box[3] - box[1] > box[4] - box[2]
                seen.add((label, wide, box[1] < SIDE / 2, box[2] < SIDE / 2))
    assert len(seen) >= 12  # both shapes, upright and turned, in different corners


def test_without_any_freedom_nothing_changes() -> None:
    fixed = Augmentation(flip_left_right=False, scale=(1, 1), translate=0, brightness=0, colour=0, gamma=0)
    image, boxes = augment_image(*scene(), fixed, np.random.default_rng(0))
    np.testing.assert_array_equal(image, scene()[0])
    np.testing.assert_array_equal(boxes, scene()[1])


def test_the_given_image_is_left_alone() -> None:
    image, boxes = scene()
    augment_image(image, boxes, AERIAL, np.random.default_rng(3))
    np.testing.assert_array_equal(image, scene()[0])
    np.testing.assert_array_equal(boxes, scene()[1])


def test_recolouring_is_drawn_per_image() -> None:
    policy = Augmentation(flip_left_right=False, scale=(1, 1), translate=0)
    grey = np.full((8, 8, 3), 100, np.uint8)
    means = [
        augment_image(grey, np.zeros((0, 5), np.float32), policy, np.random.default_rng(i))[0].mean() for i in range(9)
    ]
    assert min(means) < 90 and max(means) > 110


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13])
def test_any_number_of_channels_of_8_and_16_bits(channels: int) -> None:
    """Values of 16 bits are float32 in [0, 255] and change as bytes do, which are rounded."""
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, channels), np.uint8)
    for seed in range(8):
        coarse, _ = augment_image(image, scene()[1], AERIAL, np.random.default_rng(seed))
        fine, _ = augment_image(image.astype(np.float32), scene()[1], AERIAL, np.random.default_rng(seed))
        assert coarse.shape == fine.shape == image.shape and (coarse.dtype, fine.dtype) == (np.uint8, np.float32)
        assert fine.min() >= 0 and fine.max() <= 255
        np.testing.assert_allclose(coarse, fine, atol=4)


def test_a_mosaic_of_both_depths_keeps_fractions() -> None:
    images: list[np.ndarray] = [np.full((SIDE, SIDE, 1), 7, np.uint8), np.full((SIDE, SIDE, 1), 7.5, np.float32)]
    boxes = [np.zeros((0, 5), np.float32)] * 2
    made = [mosaic(images, boxes, 0, np.random.default_rng(seed))[0] for seed in range(4)]
    assert set(np.unique(made)) == {7.0, 7.5}


def test_clip_drops_what_is_mostly_gone() -> None:
    boxes = np.array([[0, -5, 0, 5, 10], [1, -7, 0, 3, 10], [2, 30, 30, 31, 40], [3, 50, 50, 60, 60]], np.float32)
    np.testing.assert_array_equal(clip(boxes, (0, 0, 40, 40)), [[0, 0, 0, 5, 10]])


def test_mosaic_places_boxes_on_their_pixels() -> None:
    image, boxes = scene()
    for seed in range(20):
        made, kept = mosaic([image] * 4, [boxes] * 4, 0, np.random.default_rng(seed))
        assert made.shape == image.shape
        for label, x1, y1, x2, y2 in np.rint(kept).astype(int).tolist():
            inside = made[y1:y2, x1:x2].reshape(-1, 3)
            assert (inside == ((255, 255, 255), (255, 0, 0))[label]).all(axis=1).mean() > 0.99
