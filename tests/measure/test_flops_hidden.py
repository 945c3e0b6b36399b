"""Operators whose products do not show as plain matrix products: counted, or refused by name."""

from __future__ import annotations

import pytest
import torch
import torch.ao.quantization as ao
from torch import Tensor, nn

from compress.errors import UserError
from compress.measure.flops import count


class First(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers(kind, gates):
    per_step = gates * 4 * (8 + 4)
    assert count(First(getattr(nn, kind)(8, 4)), torch.rand(5, 2, 8)).macs == 10 * per_step
    two = getattr(nn, kind)(8, 4, num_layers=2, bidirectional=True, batch_first=True)
    assert count(First(two), torch.rand(2, 5, 8)).macs == 10 * 2 * gates * 4 * ((8 + 4) + (8 + 4))
    assert count(First(getattr(nn, f"{kind}Cell")(8, 4)), torch.rand(2, 8)).macs == 2 * per_step


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_dynamically_quantized_recurrent_layers(kind, gates):
    net = ao.quantize_dynamic(First(getattr(nn, kind)(8, 4)), {getattr(nn, kind)})
    cost = count(net, torch.rand(5, 2, 8))
    assert cost.macs == 10 * gates * 4 * (8 + 4)
    assert cost.params == gates * 4 * (8 + 4 + 2)


def test_dynamically_quantized_linear():
    net = ao.quantize_dynamic(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)), {nn.Linear})
    cost = count(net, torch.rand(2, 8))
    assert cost.macs == 2 * (8 * 4 + 4 * 3)
    assert (cost.params, cost.param_bytes) == (32 + 4 + 12 + 3, 32 + 12 + 4 * 7)


def test_statically_quantized_modules():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.leave = ao.QuantStub(), ao.DeQuantStub()
            self.conv, self.up, self.linear = nn.Conv2d(3, 4, 3, groups=1), nn.ConvTranspose2d(4, 2, 2), nn.Linear(2, 5)

        def forward(self, x):
            x = self.up(self.conv(self.enter(x)))
            return self.leave(self.linear(x.mean((2, 3))))

    net = Net().eval()
    net.qconfig = ao.get_default_qconfig("qnnpack")  # per tensor: transposed convolutions have nothing else
    net = ao.prepare(net)
    net(torch.rand(1, 3, 8, 8))
    cost = count(ao.convert(net), torch.rand(1, 3, 8, 8))
    assert cost.macs == 4 * 36 * 27 + 4 * 36 * 2 * 4 + 2 * 5
    assert cost.params == 4 * 27 + 4 + 4 * 2 * 4 + 2 + 2 * 5 + 5


def test_integer_and_complex_products():
    class Integer(nn.Module):
        def forward(self, x):
            return torch._int_mm((10 * x).to(torch.int8), torch.ones(16, 8, dtype=torch.int8))

    class Complex(nn.Module):
        def forward(self, x):
            return torch.view_as_real(torch.complex(x, x) @ torch.complex(x, x).mT)

    assert count(Integer(), torch.rand(32, 16)).macs == 32 * 16 * 8
    assert count(Complex(), torch.rand(3, 5)).macs == 4 * 3 * 3 * 5


def test_deformable_convolution_bilinear_and_distances():
    ops = pytest.importorskip("torchvision.ops")

    class Deformable(nn.Module):
        def __init__(self):
            super().__init__()
            self.offsets, self.conv = nn.Conv2d(4, 18, 3, padding=1), ops.DeformConv2d(4, 6, 3, padding=1)

        def forward(self, x):
            return self.conv(x, self.offsets(x))

    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Bilinear(3, 3, 5)

        def forward(self, x):
            return self.layer(x, x)

    class Distances(nn.Module):
        def forward(self, x):
            return torch.cdist(x, x)

    assert count(Deformable(), torch.rand(1, 4, 8, 8)).macs == 64 * 4 * 9 * (18 + 6)
    assert count(Pairs(), torch.rand(2, 3)).macs == 2 * 5 * 3 * (3 + 1)
    assert count(Distances(), torch.rand(30, 4)).macs == 30 * 30 * (4 + 2)


@torch.library.custom_op("compress_tests::product", mutates_args=())
def product(x: Tensor) -> Tensor:
    return x @ x.mT


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (product, "compress_tests::product"),
        (torch.fft.fft, "_fft_"),
        (lambda x: torch.linalg.inv(x + torch.eye(4)), "linalg_inv"),
    ],
)
def test_operators_without_a_formula_are_refused_by_name(function, name):
    class Net(nn.Module):
        def forward(self, x):
            return function(x)

    with pytest.raises(UserError, match=name):
        count(Net(), torch.rand(4, 4))


def test_indices_of_max_pooling_are_no_traffic():
    assert count(nn.Sequential(nn.MaxPool2d(2), nn.Flatten()), torch.rand(1, 1, 4, 4)).bytes_moved == (16 + 4) * 4
