from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.reconstruction.layers import Layer, check_images, inputs_at, outputs_at, sample, trace


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": (3, 5), "padding": (0, 2), "dilation": (2, 1), "stride": (1, 2)},
        {"kernel_size": 3, "padding": "same", "dilation": 2, "padding_mode": "reflect"},
        {"kernel_size": 3, "padding": 1, "groups": 2},
        {"kernel_size": 3, "padding": 1, "groups": 4},
    ],
)
def test_weights_times_inputs_are_the_outputs_of_a_convolution(settings: dict[str, Any]) -> None:
    conv = nn.Conv2d(4, 8, bias=False, **settings)
    images = torch.rand(3, 4, 9, 11, generator=generator())
    with torch.no_grad():
        output = conv(images)
    layer = Layer("conv", None, output[0, 0].numel(), 0)
    positions = sample(layer, 3, 7, seed=1)
    x = inputs_at(conv, images, positions)
    assert x.shape == (conv.groups, 3 * 7, conv.weight[0].numel())
    computed = x @ conv.weight.detach().flatten(1).unflatten(0, (conv.groups, -1)).mT  # (g, n, o)
    expected = outputs_at(conv, output, positions).flatten(0, 1)
    assert torch.allclose(computed.movedim(0, 1).flatten(1), expected, atol=1e-5)
    assert torch.equal(expected[0], output[0].flatten(1)[:, positions[0, 0]])


def test_weights_times_inputs_are_the_outputs_of_a_linear_layer() -> None:
    linear = nn.Linear(4, 5)
    tokens = torch.rand(6, 7, 4, generator=generator())  # 3 images of 2 windows each
    positions = sample(Layer("linear", None, 14, 0), 3, 4, seed=1)
    with torch.no_grad():
        x, output = inputs_at(linear, tokens, positions), outputs_at(linear, linear(tokens), positions)
        assert torch.allclose(linear(x[0]), output.flatten(0, 1), atol=1e-6)


def test_positions_are_different_and_equal_for_equal_seeds() -> None:
    layer = Layer("any", None, 50, 0)
    drawn = sample(layer, 4, 20, seed=3)
    assert all(len(set(row.tolist())) == 20 and max(row) < 50 for row in drawn)
    assert torch.equal(drawn, sample(layer, 4, 20, seed=3)) and not torch.equal(drawn[0], drawn[1])
    assert sample(layer, 4, 60, seed=3).tolist() == [list(range(50))] * 4


class Padded(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


class Shared(nn.Module):
    """`used` runs before `first`, `twice` twice, `never` never; `frozen` is a constant, `own` pads in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.used, self.twice, self.never = nn.Conv2d(3, 4, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(3, 4, 1)
        self.frozen = nn.Conv2d(6, 6, 1).requires_grad_(False)
        self.own, self.head = Padded(6, 6, 1), nn.Linear(6, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(self.used(x)))
        return self.head(self.frozen(self.own(self.twice(self.twice(x)))).mean((2, 3)))


def test_layers_are_traced_in_the_order_in_which_they_run() -> None:
    layers, largest = trace(Shared().eval(), torch.rand(1, 3, 8, 8))
    assert layers == [
        Layer("used", None, 64, 4),
        Layer("first", "norm", 36, 37),  # with the shift of BatchNorm
        Layer("head", None, 1, 6),
    ]
    assert largest == 4 * 6 * 64  # of `own`, which pads


def test_too_few_images_for_a_layer_are_refused() -> None:
    layers = [Layer("conv", None, 36, 37), Layer("head", None, 1, 6)]
    check_images(layers, 6)
    with pytest.raises(
        UserError, match=r"reconstruct\.images=5: .*layer head has 6 unknowns.* 1 output.*: it needs 6 images"
    ):
        check_images(layers, 5)
