"""Ultralytics blocks that split the output of one convolution, rewritten so that a dependency graph can prune them.
`C2f` and its variants (C3k2, C2PSA) compute `a, b = split(cv1(x))`, process `b`, and join everything with `cv2`. The
halves have different roles and should keep different channels. So `cv1` becomes two parallel convolutions. BatchNorm
works per channel, so splitting it does not change the function, in training mode either."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from compress import checkpoint

UNSPLIT = "splits the output of one convolution in a way that pruning cannot trace"
ATTENTION = "attention: its head sizes are constants in the code"


class TwoWayBlock(nn.Module):
    """Replaces a splitting block: `first` and `second` compute the halves, `m` processes the second, `cv2` joins. With
    `keep_all` (C2f) the outputs of all inner blocks are joined, otherwise (C2PSA) only that of the last."""

    halves = ("first.conv", "second.conv")  # `merged` restores the stock block if they have equal widths

    def __init__(self, block: Any, keep_all: bool) -> None:
        super().__init__()
        half = block.cv1.conv.out_channels // 2
        self.first = _channels_of(block.cv1, slice(0, half))
        self.second = _channels_of(block.cv1, slice(half, None))
        self.m = block.m
        self.cv2 = block.cv2
        self.keep_all = keep_all
        # Position in the network: Ultralytics' forward loop reads `f` and `i`, its summary the others.
        for name in ("f", "i", "type", "np"):
            if hasattr(block, name):
                setattr(self, name, getattr(block, name))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, in, h, w) to (b, out, h, w)."""
        outputs = [self.first(x), self.second(x)]
        for inner in self.m:
            out = inner(outputs[-1])
            if self.keep_all:
                outputs.append(out)
            else:
                outputs[-1] = out
        return self.cv2(torch.cat(outputs, 1))


def split_blocks(net: nn.Module) -> nn.Module:
    """Replaces every splitting block inside `net`, in place, by an equivalent `TwoWayBlock`; returns `net`."""
    from ultralytics.nn.modules.block import C2PSA, C2f

    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            # Subclasses with the same `forward` (C3k2, C2fCIB, C2fPSA) differ only in their inner blocks.
            if (forward := type(child).forward) in (C2f.forward, C2PSA.forward):
                setattr(parent, name, TwoWayBlock(child, keep_all=forward is C2f.forward))
    return net


def merged(net: nn.Module) -> dict[str, Tensor] | None:
    """The state dict of `net` with stock blocks for every `TwoWayBlock`; None if the halves of any differ in width."""
    tensors = dict(net.state_dict())
    for name, block in net.named_modules():
        if not isinstance(block, TwoWayBlock):
            continue
        first, second = block.first.state_dict(), block.second.state_dict()
        if any(first[part].shape != second[part].shape for part in first):
            return None
        for part, value in first.items():
            # BatchNorm's counter is a scalar, the same in both halves.
            tensors[f"{name}.cv1.{part}"] = torch.cat((value, second[part])) if value.ndim else value
            del tensors[f"{name}.first.{part}"], tensors[f"{name}.second.{part}"]
    return tensors


def fit_to_weights(net: nn.Module) -> nn.Module:
    """Sets the width of the halves of the stock blocks in `net`, in place, from their weights; returns `net`."""
    from ultralytics.nn.modules.block import C2PSA, C2f

    for module in net.modules():
        if isinstance(module, (C2f, C2PSA)):
            module.c = module.cv1.conv.out_channels // 2
    return net


def is_split(net: nn.Module) -> bool:
    """True if `split_blocks` has changed this network."""
    return any(isinstance(module, TwoWayBlock) for module in net.modules())


def protected(net: nn.Module) -> dict[str, str]:
    """{module name: reason} for attention, and for convolutions whose output a block splits that is not rewritten."""
    from ultralytics.nn.modules import block as blocks

    kinds = (blocks.C2, blocks.C2f, blocks.C2PSA, blocks.PSA, blocks.RepNCSPELAN4)
    unsplit = {
        f"{name}.cv1.conv": f"{type(module).__name__} {UNSPLIT}"
        for name, module in net.named_modules()
        if isinstance(module, kinds)
    }
    attention = (blocks.Attention, blocks.AAttn)
    return unsplit | {name: ATTENTION for name, module in net.named_modules() if isinstance(module, attention)}


def _channels_of(conv: Any, channels: slice) -> Any:
    """A copy of an Ultralytics `Conv` (convolution, BatchNorm, activation) with a slice of its output channels."""
    part = copy.deepcopy(conv)
    tensors = {  # not BatchNorm's counter, a scalar
        name: value[channels] if value.ndim and name.startswith(("conv.", "bn.")) else value
        for name, value in conv.state_dict().items()
    }
    checkpoint.resize(part, tensors, type(conv).__name__)
    part.load_state_dict(tensors)
    return part
