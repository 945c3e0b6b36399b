"""TorchScript and exported programs cost what the network costs that they are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import compress
from compress.errors import UserError
from compress.measurement.cost import Cost
from compress.measurement.flops import count
from tests.onnx_operators import First

pytestmark = pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 5),
    ).eval()  # fmt: skip


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(16, 2, batch_first=True).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x, x, need_weights=False)[0]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "small": (small, (1, 3, 8, 8)),
    "attention": (Attention, (1, 4, 16)),
    "LSTM": (lambda: First(nn.LSTM(8, 4)).eval(), (5, 2, 8)),
    "GRU": (lambda: First(nn.GRU(8, 4, bidirectional=True)).eval(), (5, 2, 8)),
    "RNN": (lambda: First(nn.RNN(8, 4)).eval(), (5, 2, 8)),
}
FORMS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "script": lambda net, x: torch.jit.script(net),
    "trace": lambda net, x: torch.jit.trace(net, x, check_trace=False),
    "export": lambda net, x: torch.export.export(net, (x,)),
}


def totals(cost: Cost) -> Cost:
    """Without the peaks: TorchScript merges equal operators, such as the zeros of two initial states."""
    return replace(cost, layers={}, activation_bytes=0, activation_bytes_in_place=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_those_of_the_network(name: str, form: str) -> None:
    make, shape = NETWORKS[name]
    net, x = make(), torch.rand(shape)
    program = FORMS[form](net, x)
    for _ in range(3 if form == "script" else 0):
        program(x)  # TorchScript fuses after some runs
    wanted, cost = count(net, x), count(program, x)
    if (name, form) == ("attention", "script"):  # one fused operator, which moves less
        assert (cost.macs, cost.other_flops, cost.params) == (wanted.macs, wanted.other_flops, wanted.params)
        return
    assert totals(cost) == totals(wanted)
    assert cost.other_by_kind == wanted.other_by_kind


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_that_were_decomposed_count_their_first_step(name: str) -> None:
    make, shape = NETWORKS[name]
    net, x = make(), torch.rand(shape)
    assert count(torch.export.export(net, (x,)).run_decompositions(), x).macs == count(net, x).macs


def test_a_scripted_part_of_a_network_counts_for_the_module_around_it() -> None:
    net = nn.Sequential(nn.Linear(8, 8), torch.jit.script(First(nn.GRU(8, 4))))
    plain = nn.Sequential(nn.Linear(8, 8), First(nn.GRU(8, 4)))
    cost = count(net, torch.rand(5, 2, 8))
    assert cost.macs == count(plain, torch.rand(5, 2, 8)).macs
    assert cost.layers["0"].macs == 10 * 64 and cost.layers[""].macs == cost.macs - 640


def test_modes_are_restored() -> None:
    script = torch.jit.script(small().train())
    count(script, torch.rand(1, 3, 8, 8))
    assert all(module.training for module in script.modules())


def test_programs_that_cannot_be_counted_are_refused() -> None:
    x = torch.rand(1, 3, 8, 8)
    with pytest.raises(UserError, match="before torch.jit.freeze"):
        count(torch.jit.freeze(torch.jit.script(small())), x)
    program = torch.export.export(small().train(), (x,))
    for form in (program, program.module()):
        with pytest.raises(UserError, match="export net.eval"):
            count(form, x)


def test_an_operator_of_torchscript_is_refused_by_name() -> None:
    net = torch.jit.script(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval())
    with pytest.raises(UserError, match="aten::_transformer_encoder_layer_fwd"):
        count(net, torch.rand(1, 4, 16))
    assert count(net, torch.rand(1, 4, 16), unknown="warn").unknown == {"aten::_transformer_encoder_layer_fwd": 1}


def test_the_library_takes_programs() -> None:
    net, x = small(), torch.rand(1, 3, 8, 8)
    program, script = torch.export.export(net, (x,)), torch.jit.script(net)
    flops = count(net, x).flops
    assert compress.measure(program, x).flops == compress.measure(script, x).flops == flops
    assert compress.get_flops(script, 8) == compress.get_flops(program, 8) == compress.get_flops(program) == flops
    with pytest.raises(UserError, match="imgsz=16.*export it for this size"):
        compress.get_flops(program, 16)
