from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import UserError
from compress.measurement.flops import count
from tests.measurement.networks import Fn


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3), (1, 3, 10, 10), 8 * 8 * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), (2, 3, 10, 10), 2 * 8 * 5 * 5 * 3 * 9),
        (nn.Conv2d(8, 16, 3, groups=4, padding=1), (1, 8, 6, 6), 16 * 36 * 2 * 9),
        (nn.Conv2d(2, 4, 3, dilation=2), (1, 2, 9, 9), 4 * 25 * 2 * 9),
        (nn.Conv1d(2, 4, 3), (1, 2, 9), 4 * 7 * 2 * 3),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), 25 * 4 * 6 * 4),
        (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (1, 4, 5, 5), 25 * 4 * 3 * 4),
        (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
        (nn.Linear(7, 5, bias=False), (2, 3, 7), 6 * 7 * 5),
        (Fn(lambda x: x @ x.mT), (2, 3, 4, 5), 6 * 4 * 5 * 4),
        (Fn(lambda x: torch.einsum("bqd,bkd->bqk", x, x)), (2, 4, 5), 2 * 4 * 4 * 5),
        (Fn(lambda x: x @ x[0]), (4, 5), 4 * 5),
        (Fn(lambda x: F.scaled_dot_product_attention(x, x, x)), (1, 2, 16, 8), 2 * 2 * 16 * 16 * 8),
        (nn.MultiheadAttention(8, 2, batch_first=True), (1, 4, 8), 4 * 4 * 64 + 2 * 2 * 4 * 4 * 4),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_products_equal_hand_computed_macs(
    layer: nn.Module, shape: tuple[int, ...], macs: int, inference: bool
) -> None:
    if isinstance(layer, nn.MultiheadAttention):
        attention, layer = layer, Fn(lambda x: attention(x, x, x)[0])
        layer.attention = attention
    with torch.inference_mode(inference):
        cost = count(layer, torch.rand(shape))
    assert cost.macs == macs
    assert cost.flops == 2 * macs


@pytest.mark.parametrize(
    ("options", "call", "macs"),
    [
        # Projections of queries, keys, values and result, 4 x 64 per token, and two products per score.
        ({"batch_first": True}, lambda a, x: a(x, x, x), 12 * 4 * 64 + 3 * 16 * 2 * 8),
        ({"batch_first": True}, lambda a, x: a(x, x, x, need_weights=False), 12 * 4 * 64 + 3 * 16 * 2 * 8),
        ({}, lambda a, x: a(x, x, x, need_weights=False), 12 * 4 * 64 + 4 * 9 * 2 * 8),  # (length 3, batch 4, 8)
        ({}, lambda a, x: a(x[0], x[0], x[0]), 4 * 4 * 64 + 16 * 2 * 8),  # without a batch
        ({"batch_first": True}, lambda a, x: a(x, x[:, :2], x[:, :2]), (2 * 12 + 2 * 6) * 64 + 3 * 8 * 2 * 8),
        (
            {"batch_first": True, "kdim": 5, "vdim": 6}, lambda a, x: a(x, x[..., :5], x[..., :6]),
            12 * 8 * (8 + 5 + 6 + 8) + 3 * 16 * 2 * 8,
        ),
        # One more key and value, learned or zero.
        ({"batch_first": True, "add_bias_kv": True}, lambda a, x: a(x, x, x), 12 * 4 * 64 + 3 * 20 * 2 * 8),
        ({"batch_first": True, "add_zero_attn": True}, lambda a, x: a(x, x, x), 12 * 4 * 64 + 3 * 20 * 2 * 8),
        (
            {"batch_first": True}, lambda a, x: a(x, x, x, attn_mask=torch.zeros(4, 4), is_causal=True),
            12 * 4 * 64 + 3 * 16 * 2 * 8,  # masked scores are computed too
        ),
        (
            {"batch_first": True},
            lambda a, x: a(x, x, x, key_padding_mask=torch.zeros(3, 4, dtype=torch.bool), need_weights=False),
            12 * 4 * 64 + 3 * 16 * 2 * 8,
        ),
    ],
)  # fmt: skip
def test_multihead_attention_in_all_its_paths(
    options: dict[str, Any], call: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]], macs: int
) -> None:
    attention = nn.MultiheadAttention(8, 2, **options)
    net = Fn(lambda x: call(attention, x)[0])
    net.attention = attention
    assert count(net, torch.rand(3, 4, 8)).macs == macs


def test_embeddings_move_rows_and_shared_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.words = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
            self.words.weight = self.tokens.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.words(self.tokens(tokens))

    cost = count(Tied(), torch.tensor([[1, 2, 3]]))
    assert (cost.macs, cost.params, cost.other_flops) == (3 * 4 * 10, 40, 0)
    rows = cost.layers["tokens"].bytes
    assert rows == 3 * 8 + 2 * 3 * 4 * 4  # indices, and three rows that are read and written
    assert count(nn.Embedding(10, 4), torch.tensor([1])).macs == 0
    layer = nn.Linear(4, 4)
    cost = count(nn.Sequential(layer, nn.ReLU(), layer), torch.rand(1, 4))
    assert (cost.macs, cost.params, cost.layers["0"].macs) == (2 * 16, 20, 2 * 16)  # by its first name


def test_several_inputs_nested_and_by_keyword() -> None:
    class Pair(nn.Module):
        def forward(self, left: Tensor, others: dict[str, tuple[Tensor, int]], *, bias: Tensor) -> Tensor:
            return left @ others["right"][0] + bias

    left, right, bias = torch.rand(2, 3), torch.rand(3, 5), torch.rand(5)
    cost = count(Pair(), left, {"right": (right, 7)}, kwargs={"bias": bias})
    assert (cost.macs, cost.other_flops, cost.params) == (2 * 3 * 5, 10, 0)
    assert cost.activation_bytes == 4 * (6 + 15 + 10 + 5)  # inputs and the product
    assert cost.bytes_moved == 4 * (6 + 15 + 10) + 4 * (10 + 5 + 10)
    bilinear = nn.Bilinear(3, 3, 5)
    assert count(bilinear, left, left).macs == 2 * 5 * 3 * (3 + 1)


def test_an_input_that_is_passed_twice_is_one_tensor() -> None:
    class Sum(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left + right

    x = torch.rand(10)
    assert count(Sum(), x, x).activation_bytes == 2 * 40
    assert count(Sum(), x, torch.rand(10)).activation_bytes == 3 * 40


def test_encoder_layer_fast_path_is_counted() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    assert count(layer, torch.rand(1, 4, 16)).macs == 4 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 2 * 4 * 4 * 8
    assert torch.backends.mha.get_fastpath_enabled()


def test_traffic_peak_params_and_layers() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16, 3))
    cost = count(net, torch.rand(1, 1, 4, 4))
    conv, relu, linear = (16 + 2 + 32) * 4, (32 + 32) * 4, (32 + 96 + 3 + 3) * 4
    assert cost.bytes_moved == conv + relu + linear
    assert cost.activation_bytes == (32 + 32) * 4  # relu's input and output
    assert (cost.params, cost.param_bytes) == (2 + 99, 4 * (2 + 99))
    assert cost.other_flops == 32 + 3  # relu, bias
    assert cost.layers["0"].macs == 32 and cost.layers["0"].output == (1, 2, 4, 4)
    assert (cost.layers["3"].macs, cost.layers["3"].params, cost.layers["3"].bytes) == (96, 99, linear)
    assert "2" not in cost.layers  # a view
    assert cost.intensity == (2 * (32 + 96) + 35) / (conv + relu + linear)
    assert (cost.layers["3"].flops, cost.layers["3"].intensity) == (192, 195 / linear)


def test_other_arithmetic_follows_the_conventions() -> None:
    x = (1, 2, 4, 4)
    expected = [
        (nn.SiLU(), 5 * 32), (nn.Sigmoid(), 4 * 32), (nn.Softmax(-1), 5 * 32), (nn.BatchNorm2d(2), 2 * 32),
        (nn.MaxPool2d(2), 4 * 8), (nn.AvgPool2d(2), 4 * 8), (nn.AdaptiveAvgPool2d(1), 32), (nn.GELU(), 8 * 32),
        (Fn(lambda t: t + t), 32), (Fn(lambda t: torch.cat([t, t])), 0), (nn.Upsample(scale_factor=2), 0),
    ]  # fmt: skip
    for layer, flops in expected:
        assert count(layer, torch.rand(x)).other_flops == flops, layer


def test_a_kept_branch_stays_alive_until_used() -> None:
    net = Fn(lambda x: torch.relu(torch.relu(x)) + x)
    assert count(net, torch.rand(1, 10)).activation_bytes == 3 * 40


def test_elementwise_operators_reuse_memory_that_is_not_needed_any_more() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))
    cost = count(net, torch.rand(1, 1, 4, 4))
    assert (cost.activation_bytes, cost.activation_bytes_in_place) == (2 * 256, 256 + 64)
    residual = Fn(lambda x: torch.relu(x).exp() + x)  # the image is kept
    assert count(residual, torch.rand(10)).activation_bytes_in_place == 2 * 40


def test_bit_operations_are_macs_times_both_widths() -> None:
    assert count(nn.Linear(3, 5), torch.rand(1, 3)).bit_operations == 15 * 32 * 32
    half = count(nn.Linear(3, 5).to(torch.bfloat16), torch.rand(1, 3, dtype=torch.bfloat16))
    assert (half.bit_operations, half.layers[""].bit_operations) == (15 * 16 * 16, 15 * 16 * 16)
    integers = Fn(lambda x: torch._int_mm((10 * x).to(torch.int8), torch.ones(16, 8, dtype=torch.int8)))
    assert count(integers, torch.rand(32, 16)).bit_operations == 32 * 16 * 8 * 64


def test_constants_are_folded() -> None:
    table = torch.rand(8, 8)
    assert count(Fn(lambda x: x @ (table @ table)), torch.rand(1, 8)).macs == 64


def test_modes_hooks_and_threads_are_restored() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1).eval(), nn.Dropout()).train()
    net[1].eval()
    threads = torch.get_num_threads()
    assert count(net, torch.rand(1, 1, 2, 2)) == count(net, torch.rand(1, 1, 2, 2))
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert not net[0]._forward_hooks and not net[0]._forward_pre_hooks
    assert torch.get_num_threads() == threads


def test_hidden_work_is_refused() -> None:
    class Numpy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(x.numpy() @ self.weight.numpy().T)

    with pytest.raises(UserError, match="no products"):
        count(Numpy(3, 2), torch.rand(1, 3))
    with pytest.raises(UserError, match="no products"):
        count(nn.Sequential(nn.Embedding(10, 3), Numpy(3, 2)), torch.tensor([1]))


@pytest.mark.parametrize(
    ("name", "gflops", "params"),
    [("yolo26n", 5.4803, 2_408_932), ("yolo11n", 6.5425, 2_616_248), ("yolov8n", 8.7440, 3_151_904)],
)
def test_yolo_nano_at_640(name: str, gflops: float, params: int) -> None:
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    cost = count(tasks.DetectionModel(f"{name}.yaml", verbose=False).eval().fuse(), torch.rand(1, 3, 640, 640))
    assert cost.flops / 1e9 == pytest.approx(gflops, rel=1e-3)
    assert cost.params == params


def test_macs_within_a_module_are_those_of_its_layers() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    cost = count(nn.Sequential(inner, nn.Conv2d(4, 1, 1)), torch.zeros(1, 3, 2, 2))
    assert cost.macs_within("0") == 4 * (3 * 4 + 4 * 4)
    assert cost.macs_within("0.1") == 4 * 4 * 4 and cost.macs_within("") == cost.macs and cost.macs_within("7") == 0
