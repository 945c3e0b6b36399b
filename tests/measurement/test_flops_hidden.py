"""Operators whose products do not show as plain matrix products: counted, or refused by name."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.ao.quantization as ao
import torch.nn.functional as F
from torch import Tensor, nn

import compress
from compress.errors import UserError
from compress.measurement.flops import count


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
        (lambda x: torch.ops.aten._compute_linear_combination(x, torch.rand(4, 4)), "_compute_linear_combination"),
    ],
)
def test_operators_without_a_formula_are_refused_by_name(function, name):
    class Net(nn.Module):
        def forward(self, x):
            return function(x)

    with pytest.raises(UserError, match=rf"inner: \S*{name}") as caught:
        count(nn.Sequential(OrderedDict(inner=Net())), torch.rand(4, 4))
    assert "write it with" in str(caught.value)


@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (lambda x: torch.zeros(4, 4).addmm_(x, x), 64),
        (lambda x: torch.zeros(2, 4, 4).baddbmm_(x.expand(2, 4, 4), x.expand(2, 4, 4)), 128),
        (lambda x: torch.zeros(4).addmv_(x, x[0]), 16),
        (lambda x: torch.zeros(4, 4).addbmm_(x.expand(2, 4, 4), x.expand(2, 4, 4)), 128),
        (lambda x: torch.vdot(x[0], x[1]).reshape(1), 4),
        (lambda x: torch.cdist(x, x), 64),
        (lambda x: F.pdist(x), 6 * 4),
        (lambda x: F.affine_grid(x[None, :2, :3], [1, 1, 5, 7], align_corners=False), 5 * 7 * 2 * 3),
        (lambda x: torch.conv_tbc(x[None], torch.rand(1, 4, 3), torch.zeros(3)), 4 * 4 * 3),
    ],
)
def test_less_common_products(function, macs):
    class Net(nn.Module):
        def forward(self, x):
            return function(x)

    assert count(Net(), torch.rand(4, 4)).macs == macs


ONES = torch.zeros(4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.special.entr(x).cumprod(0).logcumsumexp(0),
        lambda x: x.index_add(0, ONES[0], x).scatter_add(0, ONES, x).masked_scatter(x > 0, x),
        lambda x: F.grid_sample(x[None, None], torch.rand(1, 4, 4, 2), align_corners=False),
        lambda x: (x.sort().values.median(0).values, x.kthvalue(2).values, x.diff().std(), x.unique(), x.nonzero()),
        lambda x: F.glu(F.fold(F.unfold(x[None, None], 2), (4, 4), 2)),
        lambda x: F.instance_norm(x[None]) + F.rms_norm(x, (4,)) + F.normalize(x) + x.renorm(2, 0, 1),
        lambda x: (torch.histc(x, 4), torch.bucketize(x, x[0]), F.max_pool2d(x[None], 2), F.mse_loss(x, x)),
        lambda x: F.interpolate(x[None, None], scale_factor=2, mode="bicubic", antialias=True),
        lambda x: F.embedding_bag(ONES, x),
    ],
)
def test_operators_without_products_are_not_refused(function):
    class Net(nn.Linear):
        def forward(self, x):
            return function(super().forward(x).relu_())

    assert count(Net(4, 4), torch.rand(4, 4)).macs == 64


def test_recurrent_and_quantized_networks_in_the_library():
    class Images(nn.Module):
        """Rows of an image as a sequence."""

        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(3 * 8, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.rnn(x.transpose(1, 2).flatten(2))[0][:, -1])

    macs = 8 * 4 * 4 * (24 + 4) + 8
    assert compress.measure(Images(), torch.rand(1, 3, 8, 8)).macs == macs
    recurrent = nn.Sequential(nn.Conv2d(3, 3, 1), Images())  # its channels are those of the first convolution
    assert compress.get_flops(recurrent, imgsz=8) == 2 * (macs + 64 * 9)
    quantized = ao.quantize_dynamic(recurrent, {nn.LSTM, nn.Linear})
    cost = compress.measure(quantized, torch.rand(1, 3, 8, 8))
    assert (cost.macs, compress.get_flops(quantized, imgsz=8)) == (macs + 64 * 9, 2 * (macs + 64 * 9))
    assert cost.params == sum(p.numel() for p in recurrent.parameters())
