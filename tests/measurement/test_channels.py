from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from compress.capabilities import example_image
from compress.measurement import channels, flops
from compress.measurement.flops import Cost


class Two:
    """Two convolutions, the second of `width` channels, as `product.Model` hands them out."""

    def __init__(self, width: int) -> None:
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, width, 3))

    def deployed(self) -> nn.Module:
        return copy.deepcopy(self.net).eval()

    def example_input(self) -> torch.Tensor:
        return example_image(1, 3, 16)


def cost(model: Any) -> Cost:
    return flops.count(model.deployed(), model.example_input())


def test_channels_that_fill_no_block_are_told_with_their_share_of_the_work() -> None:
    model: Any = Two(13)
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
    model: Any = Two(24)
    assert channels.remarks(model, cost(model), 1) == []
