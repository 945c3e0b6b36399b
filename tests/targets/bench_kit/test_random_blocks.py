"""The random networks of the microbenchmark."""

from __future__ import annotations

import importlib.util
import sys
from itertools import islice
from types import ModuleType

import pytest

from compress.targets.artifact import KIT
from compress.targets.bench_kit import blocks


@pytest.fixture
def random_blocks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script beside its other modules, as in a bench kit."""
    monkeypatch.setitem(sys.modules, "blocks", blocks)
    spec = importlib.util.spec_from_file_location("random_blocks", KIT / "random_blocks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_networks_are_the_same_for_a_seed_and_within_the_limits(random_blocks: ModuleType) -> None:
    first, again, other = (list(islice(random_blocks.draw(seed), 21)) for seed in (0, 0, 1))
    assert first == again and not set(first) & set(other)
    for text in first:
        block = blocks.Block(text)
        assert block.macs <= random_blocks.MOST_MACS and block.weights <= random_blocks.MOST_WEIGHTS


def test_every_stage_makes_valid_layers(random_blocks: ModuleType) -> None:
    draw = random_blocks.Draw(0)
    for stage in random_blocks.STAGES:
        for channels in (8, 64, 200):
            assert blocks.Block(f"3x32x32 conv:{channels},1 {stage(draw, channels, 'relu')}").macs > 0
