"""Blocks that split the output of one convolution, rewritten for pruning."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("ultralytics")

from compress.models import ultralytics_blocks
from compress.models.ultralytics_blocks import TwoWayBlock, is_split
from tests.models.detectors import make
from tests.models.toy import layer, randomise


@pytest.mark.parametrize("name", ["yolo26n", "yolo11n", "yolov8n"])
def test_rewriting_keeps_the_function(name: str) -> None:
    model = make(name)
    net, protected = model.prunable()
    assert is_split(net) and not is_split(model.net)
    assert protected.keys() <= dict(net.named_modules()).keys()
    x = model.example_input(2)
    with torch.no_grad():
        before, after = (each.eval()(x)[1] for each in (model.net, net))
    for head in ("one2many", "one2one") if name == "yolo26n" else (None,):
        for key in ("boxes", "scores"):
            ours, theirs = (out[head][key] if head else out[key] for out in (after, before))
            assert torch.allclose(ours, theirs, atol=1e-4)


def stock(kind: str) -> nn.Sequential:
    """A splitting block of 8 channels behind an identity, with statistics of its own."""
    from ultralytics.nn.modules import block

    made = {"C2f": lambda: block.C2f(8, 8, 2, True), "C2PSA": lambda: block.C2PSA(128, 128, 1)}[kind]()
    return nn.Sequential(nn.Identity(), randomise(made)).eval()


def image(kind: str) -> Tensor:
    return torch.rand(2, 128 if kind == "C2PSA" else 8, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["C2f", "C2PSA"])
@pytest.mark.parametrize("training", [False, True])
def test_a_block_computes_the_same_as_two_ways(kind: str, training: bool) -> None:
    net, x = stock(kind).train(training), image(kind)
    two = ultralytics_blocks.split_blocks(copy.deepcopy(net))
    assert is_split(two) and not is_split(net)
    with torch.no_grad():
        assert torch.allclose(net(x), two(x), atol=1e-5)
    merged = ultralytics_blocks.merged(two)
    assert merged is not None
    for name, value in net.state_dict().items():  # statistics that training has moved
        assert torch.allclose(value, merged[name], atol=1e-6), name


@pytest.mark.parametrize("kind", ["C2f", "C2PSA"])
def test_merging_gives_back_the_tensors_of_the_stock_block(kind: str) -> None:
    net = stock(kind)
    merged = ultralytics_blocks.merged(ultralytics_blocks.split_blocks(copy.deepcopy(net)))
    assert merged is not None and merged.keys() == net.state_dict().keys()
    assert all(torch.equal(merged[name], value) for name, value in net.state_dict().items())


def narrow_first(two: TwoWayBlock) -> None:
    """Takes one channel from the first half alone."""
    two.first = ultralytics_blocks._channels_of(two.first, slice(0, 3))


def test_halves_of_different_widths_cannot_be_merged() -> None:
    two = ultralytics_blocks.split_blocks(stock("C2f"))
    narrow_first(layer(two, "1", TwoWayBlock))
    assert ultralytics_blocks.merged(two) is None


def test_a_slice_of_a_convolution_computes_a_slice_of_its_output() -> None:
    from ultralytics.nn.modules.conv import Conv

    net, x = stock("C2f"), image("C2f")
    conv = layer(net, "1.cv1", Conv)
    part = ultralytics_blocks._channels_of(conv, slice(2, 5))
    with torch.no_grad():
        assert torch.allclose(part(x), conv(x)[:, 2:5], atol=1e-6)
    assert (part.conv.out_channels, part.bn.num_features) == (3, 3)
    assert all(parameter.requires_grad for parameter in part.parameters())
    part.conv.weight.data.zero_()
    assert conv.conv.weight[2:5].abs().sum() > 0  # the original has its own memory


def test_the_halves_of_a_stock_block_follow_its_weights() -> None:
    from ultralytics.nn.modules.block import C2f

    net = stock("C2f")
    narrow = copy.deepcopy(net)
    narrow[1].cv1 = ultralytics_blocks._channels_of(narrow[1].cv1, slice(0, 6))
    assert layer(ultralytics_blocks.fit_to_weights(narrow), "1", C2f).c == 3
    assert layer(ultralytics_blocks.fit_to_weights(net), "1", C2f).c == 4


def test_attention_and_blocks_that_are_not_rewritten_are_protected() -> None:
    from ultralytics.nn.modules import block

    net = nn.Sequential(block.C2f(8, 8, 1), block.C2(8, 8, 1), block.C2PSA(128, 128, 1))
    assert ultralytics_blocks.protected(net).keys() == {"0.cv1.conv", "1.cv1.conv", "2.cv1.conv", "2.m.0.attn"}
    result = ultralytics_blocks.protected(ultralytics_blocks.split_blocks(net))
    assert result == {
        "1.cv1.conv": f"C2 {ultralytics_blocks.UNSPLIT}", "2.m.0.attn": ultralytics_blocks.ATTENTION,
    }  # fmt: skip


def test_the_position_in_the_network_goes_with_the_block() -> None:
    net = stock("C2f")
    vars(net[1]).update(f=-1, i=7, type="C2f", np=42)
    two = layer(ultralytics_blocks.split_blocks(net), "1", TwoWayBlock)
    assert (two.f, two.i, two.type, two.np) == (-1, 7, "C2f", 42)
