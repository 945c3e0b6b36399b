"""Products and parameters of torch.ao's quantized modules."""

from __future__ import annotations

import pytest
import torch
import torch.ao.quantization as ao
from torch import Tensor, nn

import compress
from compress.measurement.flops import count
from compress.measurement.quantized_operators import packed_macs, packed_parameters, unpacked
from tests.onnx_operators import First

quantized = torch.ops.quantized


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_dynamically_quantized_recurrent_layers(kind: str, gates: int) -> None:
    net = ao.quantize_dynamic(First(getattr(nn, kind)(8, 4)), {getattr(nn, kind)})
    cost = count(net, torch.rand(5, 2, 8))
    assert cost.macs == 10 * gates * 4 * (8 + 4)
    assert cost.params == gates * 4 * (8 + 4 + 2)


def test_dynamically_quantized_linear() -> None:
    net = ao.quantize_dynamic(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)), {nn.Linear})
    cost = count(net, torch.rand(2, 8))
    assert cost.macs == 2 * (8 * 4 + 4 * 3)
    assert (cost.params, cost.param_bytes) == (32 + 4 + 12 + 3, 32 + 12 + 4 * 7)


def test_statically_quantized_modules() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = ao.QuantStub(), ao.DeQuantStub()
            self.conv, self.up, self.linear = nn.Conv2d(3, 4, 3, groups=1), nn.ConvTranspose2d(4, 2, 2), nn.Linear(2, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(self.conv(self.enter(x)))
            return self.leave(self.linear(x.mean((2, 3))))

    net = Net().eval()
    net.qconfig = ao.get_default_qconfig("qnnpack")  # per tensor: transposed convolutions have nothing else
    net = ao.prepare(net)
    net(torch.rand(1, 3, 8, 8))
    cost = count(ao.convert(net), torch.rand(1, 3, 8, 8))
    assert cost.macs == 4 * 36 * 27 + 4 * 36 * 2 * 4 + 2 * 5
    assert cost.params == 4 * 27 + 4 + 4 * 2 * 4 + 2 + 2 * 5 + 5


def test_recurrent_and_quantized_networks_in_the_library() -> None:
    class Images(nn.Module):
        """Rows of an image as a sequence."""

        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3 * 8, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x.transpose(1, 2).flatten(2))[0][:, -1])

    macs = 8 * 4 * 4 * (24 + 4) + 8
    assert compress.measure(Images(), torch.rand(1, 3, 8, 8)).macs == macs
    recurrent = nn.Sequential(nn.Conv2d(3, 3, 1), Images())  # its channels are those of the first convolution
    assert compress.get_flops(recurrent, imgsz=8) == 2 * (macs + 64 * 9)
    quantized = ao.quantize_dynamic(recurrent, {nn.LSTM, nn.Linear})
    cost = compress.measure(quantized, torch.rand(1, 3, 8, 8))
    assert (cost.macs, compress.get_flops(quantized, imgsz=8)) == (macs + 64 * 9, 2 * (macs + 64 * 9))
    assert cost.params == sum(p.numel() for p in recurrent.parameters())


def packed_linear(bias: bool = True) -> torch.ScriptObject:
    """Packed weights (4, 8) and bias (4)."""
    weight = torch.quantize_per_tensor(torch.rand(4, 8), 0.1, 0, torch.qint8)
    return quantized.linear_prepack(weight, torch.zeros(4) if bias else None)


def test_weights_are_found_in_nested_lists() -> None:
    result = list(unpacked([1.0, (packed_linear(), "text"), [packed_linear(bias=False)], None]))
    assert [tuple(weight.shape) for weight, _ in result] == [(4, 8), (4, 8)]
    assert result[0][1] is not None and result[1][1] is None


class Packed(nn.Module):
    def __init__(self, packed: torch.ScriptObject) -> None:
        super().__init__()
        self.packed = packed


def test_parameters_that_two_modules_share_count_once() -> None:
    shared = packed_linear()
    net = nn.Sequential(Packed(shared), Packed(shared), Packed(packed_linear(bias=False)))
    assert sorted(tensor.numel() for tensor in packed_parameters(net)) == [4, 32, 32]


def test_operators_without_products_have_zero_macs_and_unknown_ones_none() -> None:
    x = torch.quantize_per_tensor(torch.rand(2, 8), 0.1, 0, torch.quint8)
    assert packed_macs(quantized.add.default, (x, x, 0.1, 0), x) == 0
    assert packed_macs(torch.ops.aten.relu.default, (x,), x) is None
    assert packed_macs(quantized.embedding_byte.default, (x, packed_linear()), x) is None  # no formula


def test_products_of_two_activations_sum_over_the_inner_side() -> None:
    x = torch.quantize_per_tensor(torch.rand(3, 5), 0.1, 0, torch.quint8)
    output = torch.zeros(3, 7)
    assert packed_macs(quantized.matmul.default, (x, x, 0.1, 0), output) == 3 * 7 * 5


def test_a_linear_layer_multiplies_its_weights_for_each_row() -> None:
    x = torch.quantize_per_tensor(torch.rand(2, 3, 8), 0.1, 0, torch.quint8)
    output = torch.zeros(2, 3, 4)
    assert packed_macs(quantized.linear.default, (x, packed_linear(), 0.1, 0), output) == 2 * 3 * 4 * 8
    assert packed_macs(quantized.linear_relu.default, (x, packed_linear(bias=False), 0.1, 0), output) == 2 * 3 * 4 * 8


@pytest.mark.parametrize(("transposed", "macs"), [(False, 2 * 6 * 6 * 3 * 9), (True, 4 * 8 * 8 * 3 * 9)])
def test_convolutions_count_outputs_and_transposed_ones_inputs(transposed: bool, macs: int) -> None:
    """Groups of one input channel: weights (2, 1, 3, 3), or (4, 3, 3, 3) of a transposed convolution."""
    if transposed:
        weight = torch.quantize_per_tensor(torch.rand(4, 3, 3, 3), 0.1, 0, torch.qint8)
        packed = quantized.conv_transpose2d_prepack(weight, None, [1, 1], [0, 0], [0, 0], [1, 1], 1)
        func, x, output = quantized.conv_transpose2d.default, torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 10, 10)
    else:
        weight = torch.quantize_per_tensor(torch.rand(2, 3, 3, 3), 0.1, 0, torch.qint8)
        packed = quantized.conv2d_prepack(weight, None, [1, 1], [0, 0], [1, 1], 1)
        func, x, output = quantized.conv2d.new, torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 6, 6)
    assert packed_macs(func, (x, packed, 0.1, 0), output) == macs
