from __future__ import annotations

import numpy as np
import pytest

from compress.examples.field_scenes.canvas import SPRITE
from compress.examples.field_scenes.scene import CLASSES
from compress.examples.field_scenes.sprites import sprite


@pytest.mark.parametrize("name", [*CLASSES, "clutter"])
def test_every_object_is_drawn_at_the_size_of_a_sprite(name: str) -> None:
    for variant in range(3):
        level = sprite(name, variant)[0]
        assert max(level.shape[:2]) == SPRITE + 4 and level.shape[2] == 4
        solid = level[..., 3] > 89
        assert 0.1 < solid.mean() < 1 and level[solid][:, :3].std() > 0  # visible, with structure


def test_variants_and_objects_differ_and_are_drawn_once() -> None:
    assert sprite("person", 0) is sprite("person", 0)
    first, second, animal = (
        sprite(name, variant)[-1] for name, variant in [("person", 0), ("person", 1), ("animal", 0)]
    )
    assert not np.array_equal(first, second) and not np.array_equal(first, animal)


def test_the_smallest_level_is_still_visible() -> None:
    for name in CLASSES:
        smallest = sprite(name, 0)[-1]
        assert 10 <= max(smallest.shape[:2]) - 4 < 20 and (smallest[..., 3] > 89).any()
