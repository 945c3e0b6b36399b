from __future__ import annotations

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
