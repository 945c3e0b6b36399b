from __future__ import annotations

import pytest
from torch import nn

from compress.measurement import channels, flops
from compress.measurement.cost import Cost
from tests.fakes import FakeModel


def two(width: int) -> FakeModel:
    """Two convolutions, the second of `width` channels."""
    return FakeModel(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, width, 3)))


def cost(model: FakeModel) -> Cost:
    return flops.count(model.deployed(), model.example_input())


def test_channels_that_fill_no_block_are_told_with_their_share_of_the_work() -> None:
    model = two(13)
    [remark] = channels.remarks(model, cost(model), 4)
    first, second = 14 * 14 * 16 * 27, 12 * 12 * 13 * 16 * 9
    assert remark.kind == "odd_channels" and remark.numbers["layers"] == 1
    assert remark.numbers["macs_share"] == pytest.approx(second / (first + second))
    assert "prune.round_to=8" in remark.text
    assert (
        "prune.round_to"
        not in channels.remarks(model, cost(model), None)[0].text + channels.remarks(model, cost(model), 16)[0].text
    )


def test_whole_blocks_and_the_image_are_not_remarked_on() -> None:
    model = two(24)
    assert channels.remarks(model, cost(model), 1) == []
