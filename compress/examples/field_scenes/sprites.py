"""Sprites of objects seen from above. Each variant is drawn once, with mip levels down to a few pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from compress.examples.field_scenes.canvas import LIBRARY_SEED, Canvas, Colour, Rng, hsv, rotated


def _draw_person(rng: Rng) -> list[np.ndarray]:
    canvas, side = Canvas(rng, 1.0), rng.choice([-1, 1])
    hivis = rng.random() < 0.3
    shirt = hsv(rng, (25, 75), (0.85, 1), (0.9, 1)) if hivis else hsv(rng, (0, 360), (0.1, 0.9), (0.3, 1))
    trousers = hsv(rng, (200, 260), (0.1, 0.6), (0.15, 0.6))
    skin = hsv(rng, (15, 30), (0.3, 0.6), (0.4, 0.95))
    stride, swing = rng.uniform(0.15, 0.42), rng.uniform(0.05, 0.4)
    for s in (-1, 1):
        reach = s * side * stride
        canvas.line(0, 0.17 * s, reach, 0.17 * s, 0.2, trousers)
        canvas.ellipse(reach + 0.1, 0.17 * s, 0.16, 0.09, hsv(rng, (20, 40), (0.2, 0.6), (0.08, 0.3)))
        hand = -reach / max(stride, 0.1) * swing
        canvas.line(0, 0.4 * s, hand, 0.5 * s, 0.17, shirt * 0.82)
        canvas.ellipse(hand, 0.5 * s, 0.1, 0.1, skin)
    if rng.random() < 0.2:  # a rake, hoe or stick
        canvas.line(0.2, 0.5, 0.75, 0.35, 0.06, np.array([150, 110, 70]))
    canvas.ellipse(0, 0, 0.24, 0.47, shirt)
    if hivis:
        for y in (-0.27, 0.27):
            canvas.line(-0.2, y, 0.2, y, 0.07, np.array([225, 225, 215]))
    elif rng.random() < 0.3:
        canvas.box(-0.2, 0, 0.13, 0.24, hsv(rng, (0, 360), (0.3, 0.9), (0.2, 0.7)), 0.05)
    canvas.ellipse(0.06, 0, 0.22, 0.2, skin)
    style = rng.integers(4)
    if style == 0:  # straw hat
        straw = hsv(rng, (35, 50), (0.2, 0.5), (0.75, 0.98))
        canvas.ellipse(0.04, 0, 0.31, 0.3, straw)
        canvas.ellipse(0.03, 0, 0.19, 0.18, straw * 0.7)
        canvas.ellipse(0.03, 0, 0.15, 0.14, straw * 1.03)
    elif style == 1:  # helmet or cap with a peak
        cap = hsv(rng, (0, 360), (0.1, 0.75), (0.4, 0.95))
        canvas.ellipse(0.18, 0, 0.14, 0.14, cap * 0.75)
        canvas.ellipse(0.04, 0, 0.2, 0.19, cap)
    else:
        canvas.ellipse(0.02, 0, 0.21, 0.2, hsv(rng, (15, 40), (0.2, 0.7), (0.08, 0.6)))
    return canvas.finish(0.1, 0.25)


def _draw_vehicle(rng: Rng) -> list[np.ndarray]:
    kind = rng.integers(4)
    return (_draw_tractor, _draw_tractor, _draw_pickup, _draw_truck)[kind](rng)


def _paint(rng: Rng) -> Colour:
    if rng.random() < 0.3:
        return hsv(rng, (0, 360), (0, 0.1), (0.25, 0.98))
    return hsv(rng, rng.choice([(0, 12), (110, 135), (205, 225), (28, 52)]), (0.65, 0.95), (0.45, 0.95))


_RUBBER, _GLASS = np.array([34.0, 33, 32]), np.array([52.0, 66, 80])


def _draw_tractor(rng: Rng) -> list[np.ndarray]:
    canvas, paint = Canvas(rng, 1.2), _paint(rng)
    if rng.random() < 0.45:  # an implement at the back
        tool, half = hsv(rng, (0, 240), (0.2, 0.8), (0.3, 0.7)), rng.uniform(0.5, 0.95)
        canvas.line(-1.1, 0, -0.6, 0, 0.12, tool * 0.6)
        canvas.box(-0.98, 0, 0.09, half, tool)
        for y in np.linspace(-half, half, 7):
            canvas.line(-1.12, y, -0.85, y, 0.06, tool * 0.5)
    for s in (-1, 1):
        canvas.box(-0.42, 0.46 * s, 0.38, 0.15, _RUBBER, 0.06)
        for x in np.linspace(-0.72, -0.12, 8):
            canvas.line(x, 0.34 * s, x + 0.05, 0.58 * s, 0.025, _RUBBER * 2)
        canvas.box(0.66, 0.36 * s, 0.22, 0.1, _RUBBER * 1.2, 0.04)
    canvas.line(0.66, -0.36, 0.66, 0.36, 0.1, _RUBBER * 1.6)
    canvas.box(0.36, 0, 0.58, 0.2, paint, 0.06)
    canvas.line(-0.1, 0, 0.9, 0, 0.1, paint * 1.25)
    canvas.box(0.88, 0, 0.06, 0.16, paint * 0.4)
    canvas.ellipse(0.3, 0.14, 0.05, 0.05, _RUBBER)
    canvas.box(-0.42, 0, 0.36, 0.4, paint * 0.8, 0.08)
    if rng.random() < 0.75:  # cab
        canvas.box(-0.3, 0, 0.36, 0.34, _GLASS, 0.05)
        canvas.box(-0.36, 0, 0.3, 0.31, paint if rng.random() < 0.5 else hsv(rng, (0, 60), (0, 0.1), (0.7, 1)), 0.08)
        canvas.box(-0.36, 0, 0.14, 0.14, paint * 0.65)
    else:  # open seat and steering wheel
        canvas.box(-0.45, 0, 0.16, 0.15, _RUBBER, 0.05)
        canvas.ellipse(-0.15, 0, 0.1, 0.12, _RUBBER * 1.5)
    return canvas.finish(0.1, 0.25)


def _draw_pickup(rng: Rng) -> list[np.ndarray]:
    canvas, paint, width = Canvas(rng, 1.1), _paint(rng), rng.uniform(0.4, 0.48)
    for x in (-0.6, 0.62):
        canvas.box(x, 0, 0.17, width + 0.04, _RUBBER)
    canvas.box(0, 0, 1.0, width, paint, 0.12)
    canvas.box(0.7, 0, 0.22, width * 0.7, paint * 1.12, 0.05)
    for s in (-1, 1):
        canvas.box(0.93, 0.3 * s, 0.05, 0.08, np.array([235, 232, 210]))
        canvas.box(0.3, (width + 0.03) * s, 0.05, 0.05, paint * 0.6)
    canvas.poly(np.array([(0.46, -0.4), (0.46, 0.4), (0.26, 0.32), (0.26, -0.32)]) * (1, width / 0.44), _GLASS)
    canvas.box(0.05, 0, 0.24, width * 0.8, paint * 1.05, 0.04)
    canvas.box(-0.22, 0, 0.06, width * 0.75, _GLASS)
    if rng.random() < 0.7:  # open bed, sometimes loaded
        canvas.box(-0.63, 0, 0.31, width * 0.8, paint * 0.35)
        for y in np.linspace(-0.25, 0.25, 5):
            canvas.line(-0.92, y, -0.34, y, 0.02, paint * 0.5)
        for _ in range(rng.integers(0, 5)):
            cargo = hsv(rng, (20, 60), (0.1, 0.7), (0.4, 0.9))
            canvas.box(rng.uniform(-0.82, -0.45), rng.uniform(-0.2, 0.2), rng.uniform(0.06, 0.14), 0.1, cargo)
    else:
        canvas.box(-0.62, 0, 0.32, width * 0.8, paint * 0.92, 0.04)
    return canvas.finish(0.06, 0.25)


def _draw_truck(rng: Rng) -> list[np.ndarray]:
    canvas, paint, width = Canvas(rng, 1.35), _paint(rng), rng.uniform(0.34, 0.42)
    for x in (-1.0, -0.72, 0.75):
        canvas.box(x, 0, 0.13, width + 0.03, _RUBBER)
    canvas.line(-0.9, 0, 0.8, 0, 0.3, _RUBBER * 1.5)
    canvas.box(0.88, 0, 0.3, width, paint, 0.07)
    canvas.box(1.06, 0, 0.07, width * 0.85, _GLASS)
    canvas.box(0.78, 0, 0.14, width * 0.8, paint * 1.15, 0.03)
    wall = hsv(rng, (0, 360), (0, 0.6), (0.45, 0.95))
    canvas.box(-0.38, 0, 0.88, width, wall)
    load = rng.integers(3)
    if load == 0:  # closed box with ribs
        for x in np.linspace(-1.2, 0.45, 10):
            canvas.line(x, -width, x, width, 0.03, wall * 0.8)
    else:  # grain, soil or hay in an open box
        fill = (
            hsv(rng, (28, 50), (0.3, 0.75), (0.35, 0.9)) if load == 1 else hsv(rng, (80, 120), (0.4, 0.6), (0.3, 0.5))
        )
        canvas.box(-0.38, 0, 0.82, width - 0.07, fill)
        for _ in range(140):
            x, y = rng.uniform(-1.15, 0.4), rng.uniform(0.09 - width, width - 0.09)
            canvas.ellipse(x, y, 0.05, 0.03, fill * rng.uniform(0.7, 1.25), rng.uniform(0, 3))
    return canvas.finish(0.07, 0.2)


def _coat(rng: Rng, kind: int) -> Colour:
    dark = hsv(rng, (10, 35), (0.3, 0.75), (0.12, 0.5))
    pale = hsv(rng, (30, 50), (0.03, 0.25), (0.75, 0.98))
    chance = (0.5, 0.9, 0.2, 0.5)[kind]  # pale cow, sheep, horse, goat
    return pale if rng.random() < chance else dark


def _draw_animal(rng: Rng) -> list[np.ndarray]:
    kind = int(rng.integers(4))  # cow, sheep, horse, goat
    canvas, coat = Canvas(rng, 1.25), _coat(rng, kind)
    width = (0.3, 0.36, 0.23, 0.2)[kind] * rng.uniform(0.9, 1.1)
    bend = rng.uniform(-0.35, 0.35)  # sideways turn of the head
    nx, ny = 0.95, bend * (1.3 if kind == 2 else 0.8)
    leg, tail = coat * 0.5, coat * (0.35 if kind == 2 else 0.7)
    for x in (-0.45, 0.42):
        for s in (-1, 1):
            shift = rng.uniform(-0.14, 0.14)
            canvas.line(x, s * width * 0.6, x + shift, s * (width + 0.06), 0.11, leg)
    tip = rng.uniform(-0.25, 0.25)
    canvas.line(-0.65, 0, -0.98 if kind != 3 else -0.8, tip, 0.12 if kind == 2 else 0.06, tail)
    canvas.line(0.45, 0, nx, ny, 0.3 if kind == 2 else 0.25, coat * 0.93)
    face = coat * 0.85 if kind != 1 else _coat(rng, 2) * rng.choice([1.0, 0.5])
    heading = math.atan2(ny, 0.5)
    ahead = np.array([math.cos(heading), math.sin(heading)])
    for s in (-1, 1):
        side = np.array([-ahead[1], ahead[0]]) * s
        ex, ey = np.array([nx, ny]) - ahead * 0.08 + side * 0.17
        canvas.ellipse(ex, ey, 0.05, 0.11, face * 0.8, heading + 0.4 * s)
        if kind in (0, 3):
            hx, hy = np.array([nx, ny]) + side * 0.12 + ahead * (0.12 if kind == 0 else -0.25)
            canvas.line(nx, ny, hx, hy, 0.05, np.array([215, 205, 180]))
    canvas.ellipse(nx + 0.06 * ahead[0], ny + 0.06 * ahead[1], 0.21, 0.12, face, heading)
    canvas.ellipse(nx + 0.22 * ahead[0], ny + 0.22 * ahead[1], 0.06, 0.08, face * 0.5, heading)
    before = canvas.mask.copy()
    canvas.mask[:] = 0
    canvas.ellipse(0, 0, 0.62, width, coat)
    canvas.ellipse(-0.42, 0, 0.28, width * 0.95, coat)
    canvas.ellipse(0.36, 0, 0.3, width * 0.9, coat)
    body, canvas.mask = canvas.mask, canvas.mask | before
    _mark_coat(canvas, kind, coat, body, width, (nx, ny))
    return canvas.finish(0.14 if kind != 1 else 0.2, 0.4)


def _mark_coat(
    canvas: Canvas, kind: int, coat: Colour, body: np.ndarray, width: float, neck: tuple[float, float]
) -> None:
    """Draws patches (cow, goat), wool (sheep) or mane (horse), and the highlight along the back."""
    rng = canvas.rng
    if kind == 1:
        for _ in range(120):
            a, r = rng.uniform(0, 6.3), math.sqrt(rng.random())
            x, y = 0.62 * r * math.cos(a), width * r * math.sin(a)
            canvas.ellipse(x, y, 0.08, 0.08, coat * rng.uniform(0.8, 1.1))
        return
    canvas.clip = body
    if kind in (0, 3) and rng.random() < 0.65:
        patch = coat * 0.2 if coat.mean() > 120 else hsv(rng, (30, 50), (0, 0.15), (0.8, 0.97))
        for _ in range(rng.integers(3, 7)):
            canvas.blob(rng.uniform(-0.6, 0.6), rng.uniform(-width, width), rng.uniform(0.1, 0.24), 0.6, patch)
    else:
        canvas.line(-0.6, 0, 0.5, 0, width * 0.5, coat * 1.15)
    canvas.clip = None
    if kind == 2:
        canvas.line(0.3, 0, neck[0] - 0.05, neck[1], 0.1, coat * 0.35)


def _draw_tree(rng: Rng) -> list[np.ndarray]:
    canvas = Canvas(rng, 1.15)
    autumn, kind = rng.random() < 0.22, rng.random()
    leaf = hsv(rng, (22, 55), (0.55, 0.8), (0.5, 0.8)) if autumn else hsv(rng, (75, 135), (0.35, 0.7), (0.25, 0.55))
    if kind < 0.27:
        _draw_conifer(canvas, hsv(rng, (100, 155), (0.3, 0.6), (0.22, 0.42)))
        return canvas.finish(0.25, 0.3)
    spread, airy = rng.uniform(0.1, 0.22), rng.random() < 0.2
    lobes = [(rng.uniform(0, 6.3), rng.uniform(0.15, 0.5), rng.uniform(0.4, 0.62)) for _ in range(rng.integers(4, 8))]
    for _ in range(130 if airy else 190):
        a, off, size = lobes[rng.integers(len(lobes))]
        t, r = rng.uniform(0, 6.3), size * math.sqrt(rng.random())
        x, y = off * math.cos(a) + r * math.cos(t), off * math.sin(a) + r * math.sin(t)
        # light comes from -x: leaves on that side of a lobe are brighter
        lit = 0.95 - 0.4 * (r / size) * math.cos(t) - 0.15 * x + rng.normal() * 0.13
        canvas.blob(x, y, spread * rng.uniform(0.5, 1), 0.5, leaf * max(lit, 0.35))
    return canvas.finish(0.35, 0.25)


def _draw_conifer(canvas: Canvas, leaf: Colour) -> None:
    """Draws star-shaped rings of branches; upper rings are smaller and brighter."""
    rng, rays = canvas.rng, int(canvas.rng.integers(12, 20))
    for level, radius in enumerate(np.linspace(1.0, 0.2, 6)):
        t = np.linspace(0, 2 * math.pi, 2 * rays, endpoint=False) + rng.uniform(0, 1)
        r = radius * np.where(np.arange(2 * rays) % 2, rng.uniform(0.5, 0.65), rng.uniform(0.85, 1.05, 2 * rays))
        star = np.stack([r * np.cos(t), r * np.sin(t)], 1)
        shade = 0.6 + 0.16 * level
        canvas.poly(star, leaf * shade)
        canvas.poly(star * 0.8 - (0.08 * radius, 0), leaf * (shade + 0.12))
    canvas.ellipse(0, 0, 0.06, 0.06, leaf * 2)


def _draw_weed(rng: Rng) -> list[np.ndarray]:
    canvas, count = Canvas(rng, 1.15), int(rng.integers(5, 10))
    hue = [(55, 75), (140, 175), (85, 110), (330, 380)][rng.choice(4, p=[0.3, 0.35, 0.2, 0.15])]
    leaf = hsv(rng, hue, (0.3, 0.75), (0.4, 0.8))
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
            canvas.poly(rotated(edge, angle), leaf * shade * 0.7)
            canvas.poly(rotated(edge * (0.95, 0.78), angle), leaf * shade)
            x, y = rotated(np.array([[0.9 * length, 0]]), angle)[0]
            canvas.line(0, 0, x, y, 0.035, leaf * shade * 1.4)
    canvas.ellipse(0, 0, 0.1, 0.1, leaf * 0.65)
    if rng.random() < 0.3:
        petals = hsv(rng, [(48, 58), (270, 310), (0, 360)][rng.integers(3)], (0.1, 0.9), (0.85, 1))
        for _ in range(rng.integers(1, 4)):
            x, y = rng.normal(0, 0.25, 2)
            for a in np.arange(6) * 1.05:
                canvas.ellipse(x + 0.1 * math.cos(a), y + 0.1 * math.sin(a), 0.09, 0.06, petals, a)
            canvas.ellipse(x, y, 0.06, 0.06, np.array([190, 140, 30]))
    return canvas.finish(0.15, 0.15)


def _draw_clutter(rng: Rng) -> list[np.ndarray]:
    """Draws an unlabelled object that a detector may confuse with labelled ones."""
    canvas, kind = Canvas(rng, 1.2), rng.integers(8)
    if kind == 0:  # rock
        grey = hsv(rng, (20, 50), (0.03, 0.2), (0.4, 0.75))
        for k in range(5):
            canvas.blob(-0.06 * k, -0.04 * k, 0.9 - 0.17 * k, 0.5, grey * (0.75 + 0.1 * k), 0.75)
    elif kind == 1:  # round hay bale, from above or lying
        straw = hsv(rng, (38, 50), (0.3, 0.6), (0.65, 0.9))
        if rng.random() < 0.5:
            for k, r in enumerate(np.linspace(1.0, 0.1, 9)):
                canvas.ellipse(0, 0, r, r, straw * (0.85 if k % 2 else 1.05))
        else:
            canvas.box(0, 0, 0.9, 0.7, straw, 0.06)
            for x in np.linspace(-0.85, 0.85, 14):
                canvas.line(x, -0.7, x, 0.7, 0.03, straw * rng.uniform(0.75, 1.15))
    elif kind == 2:  # puddle
        water = hsv(rng, (30, 220), (0.1, 0.35), (0.2, 0.5))
        canvas.blob(0, 0, 0.8, 0.9, water * 0.75, 0.7)
        canvas.blob(0, 0, 0.6, 0.7, water, 0.7)
        canvas.blob(0.15, 0.1, 0.25, 0.6, water * 1.4, 0.5)
    elif kind == 3:  # tarp with folds
        cloth = hsv(rng, (0, 360), (0.1, 0.8), (0.4, 0.9))
        canvas.poly(np.array([(-1, -0.8), (1, -0.7), (0.9, 0.75), (-0.85, 0.85)]) * rng.uniform(0.6, 1, (4, 2)), cloth)
        canvas.clip = canvas.mask.copy()
        for _ in range(7):
            x, y = rng.uniform(-0.8, 0.8, 2)
            canvas.line(x, -1, y, 1, 0.07, cloth * rng.uniform(0.75, 1.15))
    elif kind == 4:  # crate or pallet
        wood = hsv(rng, (25, 40), (0.25, 0.55), (0.5, 0.85))
        canvas.box(0, 0, 0.95, 0.75, wood * 0.35)
        for y in np.linspace(-0.66, 0.66, 6):
            canvas.line(-0.95, y, 0.95, y, 0.16, wood * rng.uniform(0.85, 1.1))
    elif kind == 5:  # log
        bark = hsv(rng, (18, 35), (0.25, 0.5), (0.25, 0.5))
        canvas.box(0, 0, 1.05, 0.17, bark, 0.05)
        for y in np.linspace(-0.12, 0.12, 5):
            canvas.line(-1, y, 0.95, y + rng.normal() * 0.03, 0.025, bark * rng.uniform(0.6, 1.4))
        canvas.ellipse(1.03, 0, 0.07, 0.17, np.array([205, 175, 125]))
    elif kind == 6:  # sacks
        sack = hsv(rng, (30, 60), (0.02, 0.2), (0.75, 0.97))
        for k in range(rng.integers(1, 4)):
            canvas.box(0.1 * k, 0.6 * (k - 1), 0.55, 0.26, sack * rng.uniform(0.9, 1.05), 0.12)
            canvas.line(0.1 * k - 0.4, 0.6 * (k - 1), 0.1 * k + 0.4, 0.6 * (k - 1), 0.05, sack * 0.75)
    else:  # water trough
        metal = hsv(rng, (180, 230), (0.02, 0.15), (0.5, 0.8))
        canvas.box(0, 0, 1.05, 0.38, metal, 0.14)
        canvas.box(0, 0, 0.94, 0.27, hsv(rng, (150, 220), (0.2, 0.5), (0.2, 0.45)), 0.1)
    return canvas.finish(0.18, 0.25)


_DRAW: dict[str, Callable[[Rng], list[np.ndarray]]] = {
    "person": _draw_person,
    "vehicle": _draw_vehicle,
    "animal": _draw_animal,
    "tree": _draw_tree,
    "weed": _draw_weed,
    "clutter": _draw_clutter,
}


@cache
def sprite(name: str, variant: int) -> list[np.ndarray]:
    """Returns the mip levels of one variant, the same in every process."""
    return _DRAW[name](np.random.default_rng([LIBRARY_SEED, list(_DRAW).index(name), variant]))
