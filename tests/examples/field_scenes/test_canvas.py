from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from compress.examples.field_scenes.canvas import SPRITE, Canvas, hsv, noise, pick, pyramid, rotated


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_colours_stay_within_their_ranges() -> None:
    for seed in range(20):
        red, green, blue = hsv(rng(seed), (0, 0), (0.5, 0.5), (1, 1))
        assert (red, green, blue) == pytest.approx((255, 127.5, 127.5))
    grey = hsv(rng(), (0, 360), (0, 0), (0.2, 0.4))
    assert np.ptp(grey) == 0 and 0.2 * 255 <= grey[0] <= 0.4 * 255


def test_a_pick_is_an_element_of_the_pool() -> None:
    assert {pick(rng(seed), range(30, 33)) for seed in range(40)} == {30, 31, 32}


def test_noise_is_smooth_and_fills_its_range() -> None:
    coarse, fine = noise(rng(), 128, (4,)), noise(rng(), 128, (64,))
    assert coarse.shape == (128, 128)
    assert np.abs(coarse).max() == pytest.approx(1, abs=1e-3) and np.abs(fine).max() == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(coarse)).mean() < np.abs(np.diff(fine)).mean() / 4


def test_every_mip_level_is_half_the_one_before() -> None:
    image = rng().integers(0, 256, (96, 50, 3)).astype(np.uint8)
    levels = pyramid(image, 10)
    assert [level.shape[:2] for level in levels] == [(96, 50), (48, 25), (24, 12), (12, 6)]
    assert levels[0] is image
    assert [int(level.mean()) for level in levels] == pytest.approx([int(image.mean())] * 4, abs=2)


def test_a_quarter_turn_moves_the_x_axis_to_the_y_axis() -> None:
    np.testing.assert_allclose(rotated(np.array([[1.0, 0.0], [0.0, 2.0]]), math.pi / 2), [[0, 1], [-2, 0]], atol=1e-12)


def test_shapes_cover_the_area_that_they_should() -> None:
    pixels = (512 / 4) ** 2  # of a unit square, on a canvas that reaches from -2 to 2
    for draw, area in [
        (lambda c: c.box(0, 0, 1, 0.5, np.zeros(3)), 2.0),
        (lambda c: c.box(0, 0, 1, 0.5, np.zeros(3), cut=0.5), 2.0 - 4 * 0.5**2 / 2),
        (lambda c: c.line(-1, -1, 1, 1, 0.25, np.zeros(3)), 0.25 * 8**0.5),
        (lambda c: c.ellipse(0, 0, 1, 0.5, np.zeros(3), turn=0.7), math.pi / 2),
        (lambda c: c.blob(0, 0, 1.0, 0.0, np.zeros(3), squash=0.5), math.pi / 2),
    ]:
        canvas = Canvas(rng(), 2.0)
        draw(canvas)
        assert np.count_nonzero(canvas.mask) / pixels == pytest.approx(area, rel=0.05)


def test_a_clip_limits_what_is_drawn_and_leaves_the_outline() -> None:
    canvas = Canvas(rng(), 1.0)
    canvas.ellipse(0, 0, 0.5, 0.5, np.array([255.0, 0, 0]))
    canvas.clip = canvas.mask.copy()
    canvas.box(0, 0, 1, 1, np.array([0.0, 0, 255]))
    assert (canvas.mask == canvas.clip).all()
    inside = canvas.mask > 0
    assert (canvas.rgb[inside] == (0, 0, 255)).all() and not canvas.rgb[~inside].any()


def test_a_finished_sprite_is_cropped_premultiplied_and_has_an_empty_border() -> None:
    canvas = Canvas(rng(), 1.0)
    canvas.box(0.3, 0.2, 0.4, 0.2, np.array([200.0, 100, 50]))
    levels = canvas.finish(texture=0.0, rim=0.0)
    height, width = levels[0].shape[:2]
    assert (width, height) == (SPRITE + 4, SPRITE // 2 + 4)
    for level in levels:
        assert not level[:2].any() and not level[-2:].any() and not level[:, :2].any() and not level[:, -2:].any()
        assert (level[..., :3].max(axis=2) <= level[..., 3]).all()  # premultiplied
    centre = levels[0][height // 2, width // 2]
    assert centre.tolist() == pytest.approx([200, 100, 50, 255], abs=1)


def test_the_rim_is_darker_than_the_middle() -> None:
    canvas = Canvas(rng(), 1.0)
    canvas.ellipse(0, 0, 0.8, 0.8, np.array([200.0, 200, 200]))
    level = canvas.finish(texture=0.0, rim=0.35)[0]
    solid = cv2.erode((level[..., 3] == 255).astype(np.uint8), np.ones((3, 3)))
    middle = level[len(level) // 2, len(level) // 2, 0]
    assert 198 <= middle <= 200 and level[solid > 0][:, 0].min() < 0.8 * middle
