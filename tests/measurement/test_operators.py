"""Operators whose products do not show as plain matrix products: counted, or refused by name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import UserError
from compress.measurement import operators
from compress.measurement.flops import count
from tests.measurement.networks import Fn
from tests.onnx_operators import First

aten = torch.ops.aten


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers(kind: str, gates: int) -> None:
    per_step = gates * 4 * (8 + 4)
    assert count(First(getattr(nn, kind)(8, 4)), torch.rand(5, 2, 8)).macs == 10 * per_step
    two = getattr(nn, kind)(8, 4, num_layers=2, bidirectional=True, batch_first=True)
    assert count(First(two), torch.rand(2, 5, 8)).macs == 10 * 2 * gates * 4 * ((8 + 4) + (8 + 4))
    # The product with a cell's first state, zeros by default, is a constant.
    assert count(First(getattr(nn, f"{kind}Cell")(8, 4)), torch.rand(2, 8)).macs == 2 * gates * 4 * 8


def test_integer_and_complex_products() -> None:
    class Integer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch._int_mm((10 * x).to(torch.int8), torch.ones(16, 8, dtype=torch.int8))

    class Complex(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(torch.complex(x, x) @ torch.complex(x, x).mT)

    assert count(Integer(), torch.rand(32, 16)).macs == 32 * 16 * 8
    assert count(Complex(), torch.rand(3, 5)).macs == 4 * 3 * 3 * 5


def test_deformable_convolution_bilinear_and_distances() -> None:
    ops = pytest.importorskip("torchvision.ops")

    class Deformable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offsets, self.conv = nn.Conv2d(4, 18, 3, padding=1), ops.DeformConv2d(4, 6, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x, self.offsets(x))

    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Bilinear(3, 3, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x, x)

    class Distances(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
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
        (lambda x: torch.linalg.inv(x + torch.eye(4)), "linalg_inv"),
        (lambda x: torch.ops.aten._compute_linear_combination(x, torch.rand(4, 4)), "_compute_linear_combination"),
    ],
)
def test_operators_without_a_formula_are_refused_by_name(function: Callable[[Tensor], Tensor], name: str) -> None:
    with pytest.raises(UserError, match=rf"inner: \S*{name}") as caught:
        count(nn.Sequential(OrderedDict(inner=Fn(function))), torch.rand(4, 4))
    assert "write it with" in str(caught.value)


def test_operators_without_a_formula_can_be_counted_apart(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    net = nn.Sequential(OrderedDict(linear=nn.Linear(4, 4), inner=Fn(lambda x: product(product(x)))))
    cost = count(net, torch.rand(4, 4), unknown="warn")
    assert (cost.macs, cost.other_flops, cost.unknown) == (64, 16, {"compress_tests::product": 2})
    assert cost.layers["inner"].bytes == 2 * 2 * 64 and cost.layers["inner"].other_flops == 0
    assert [record.getMessage() for record in caplog.records] == [
        "inner: compress_tests::product has no formula: its arithmetic is not counted"
    ]
    assert count(nn.Linear(4, 4), torch.rand(1, 4), unknown="warn").unknown == {}


def test_control_flow_can_be_counted_apart() -> None:
    chosen = Fn(lambda x: torch.ops.higher_order.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))[0])
    with pytest.raises(UserError, match="cond"):
        count(chosen, torch.rand(4, 4))
    assert count(chosen, torch.rand(4, 4), unknown="warn").unknown == {"cond": 1}


@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        (F.relu, {"activation": 16}),
        (F.silu, {"activation": 80}),
        (lambda x: x + x, {"elementwise": 16}),
        (lambda x: F.softmax(x, 0), {"softmax": 80}),
        (lambda x: F.layer_norm(x, (4,)), {"normalisation": 112}),
        (lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4)), {"normalisation": 32}),
        (lambda x: F.max_pool2d(x[None], 2), {"pooling": 16}),
        (lambda x: F.adaptive_avg_pool2d(x[None], 2), {"pooling": 16}),
        (lambda x: F.interpolate(x[None, None], scale_factor=2, mode="bilinear"), {"resize": 7 * 64}),
        (lambda x: x.sum(), {"reduction": 16}),
        (lambda x: F.linear(x, torch.ones(2, 4), torch.ones(2)), {"bias": 8}),
        (torch.fft.rfft, {"fft": 80}),
        (lambda x: F.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None]), {"softmax": 96}),
        (lambda x: x @ x, {}),
    ],
)
def test_other_flops_have_a_kind(function: Callable[[Tensor], Tensor], kinds: dict[str, int]) -> None:
    cost = count(Fn(function), torch.rand(4, 4))
    assert cost.other_by_kind == kinds and cost.other_flops == sum(kinds.values())


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
def test_less_common_products(function: Callable[[Tensor], Tensor], macs: int) -> None:
    assert count(Fn(function), torch.rand(4, 4)).macs == macs


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
def test_operators_without_products_are_not_refused(function: Callable[[Tensor], object]) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), Fn(function))
    assert count(net, torch.rand(4, 4)).macs == 64


def test_operators_in_place_share_the_formula_of_the_others() -> None:
    assert operators.formula_of(aten.addmm_.default) is operators.formula_of(aten.addmm.default) is not None
    assert operators.formula_of(aten.relu_.default) is None


X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("func", "tensors", "hides"),
    [
        (aten.relu.default, [X], False),  # torch tags it
        (aten.relu_.default, [X], False),
        (aten.transpose.int, [X], False),  # a view
        (aten.grid_sampler_2d.default, [X], False),  # listed
        (aten._fft_c2c.default, [X], False),  # counted as other FLOPs
        (aten.linalg_inv_ex.default, [X], True),
        (aten.linalg_inv_ex.default, [X.long()], False),  # products of integers have formulas
        (aten.linalg_inv_ex.default, [X.to(torch.complex64)], True),
    ],
    ids=str,
)
def test_an_operator_hides_products_unless_it_is_known_to_have_none(
    func: torch._ops.OpOverload, tensors: list[Tensor], hides: bool
) -> None:
    assert operators.may_hide_products(func, tensors) is hides


def of_namespace(name: str) -> SimpleNamespace:
    return SimpleNamespace(_schema=SimpleNamespace(name=name))


@pytest.mark.parametrize(
    ("name", "hides"),
    [
        ("torchvision::nms", False),
        ("torchvision::deform_conv2d_of_tomorrow", True),
        ("quantized_decomposed::dequantize_per_tensor", False),
        ("quantized_decomposed::mixed_mm", True),
        ("prims::convert_element_type", False),
        ("prims::fft_r2c", True),
        ("prims::svd", True),
        ("somebody::kernel", True),
    ],
)
def test_operators_of_other_libraries_hide_products_unless_listed(name: str, hides: bool) -> None:
    assert operators.may_hide_products(of_namespace(name), [X]) is hides


BOX, CUBE = torch.zeros(1, 2, 4, 6), torch.zeros(1, 2, 4, 6, 8)


@pytest.mark.parametrize(
    ("name", "args", "inputs", "output", "flops"),
    [
        ("convolution", (BOX, X, X), [BOX], BOX, 48),  # one addition per output for the bias
        ("convolution", (BOX, X, None), [BOX], BOX, 0),
        ("addmm", (X, X, X), [X], X, 6),
        ("mm", (X, X.mT), [X], torch.zeros(2, 2), 0),  # nothing but products
        ("sigmoid", (X,), [X], X, 4 * 6),
        ("cat", ([X, X],), [X, X], torch.zeros(4, 3), 0),
        ("a_new_elementwise_operator", (X,), [X], X, 6),
        ("add", (X.long(),), [X.long()], X.long(), 0),  # integers are indices
        ("avg_pool2d", (BOX, [2]), [BOX], torch.zeros(1, 2, 2, 3), 12 * 2 * 2),
        ("avg_pool2d", (BOX, [2, 3]), [BOX], torch.zeros(1, 2, 2, 2), 8 * 2 * 3),
        ("max_pool3d_with_indices", (CUBE, [2]), [CUBE], torch.zeros(1, 2, 2, 3, 4), 48 * 2**3),
        ("amax", (BOX,), [BOX], torch.zeros(1, 2), 48),  # one comparison per input value
        ("max", (X[0], X), [X[0], X], X, 6),  # of two tensors: one per output value
        ("mkldnn_rnn_layer", (), [BOX], torch.zeros(5, 2, 4), 36 * 40),
        (
            "_scaled_dot_product_flash_attention_for_cpu", (),
            [torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 7, 8), torch.zeros(1, 2, 7, 8)], torch.zeros(1, 2, 5, 8),
            6 * 2 * 5 * 7,
        ),
    ],
)  # fmt: skip
def test_arithmetic_outside_products(
    name: str, args: tuple[object, ...], inputs: list[Tensor], output: Tensor, flops: int
) -> None:
    assert operators.other_flops(name, args, inputs, output) == flops
