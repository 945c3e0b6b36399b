"""Fast estimate of the cost of a network after channels are removed, without modifying the network.

It covers the convolutions and linear layers of the network as traced: heads that are dropped for deployment are
included, matrix products of attention are not. It only guides the search; results are counted exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compress.pruning.groups import Cut


class Estimate:
    """Cost of the layers of a network, in MACs or seconds, while channels are removed and restored.

    Args:
        example: (b, …) input of `net`.
        seconds: {layer: time at full width}. The cost is then this time, proportional to the output and to the input
            channels; layers that are not listed cost nothing. None: the cost is in MACs.
    """

    def __init__(self, net: nn.Module, example: Tensor, seconds: Mapping[str, float] | None = None) -> None:
        self._unit: dict[str, float] = {}  # cost per output channel and input channel
        self._width: dict[str, list[int]] = {}  # [output, input] channels

        def record(name: str, layer: Any, output: Tensor) -> None:
            if isinstance(layer, _ConvNd):
                positions = output[:, 0].numel() * layer.weight[0, 0].numel()
                inputs = layer.in_channels if layer.groups == 1 else layer.weight.shape[1]
                self._width[name] = [layer.out_channels, inputs]
            else:
                positions = output[..., 0].numel()
                self._width[name] = [layer.out_features, layer.in_features]
            self._unit[name] = self._unit.get(name, 0) + positions

        training = net.training
        with torch.no_grad(), ExitStack() as after:
            after.callback(net.train, training)
            for name, layer in net.named_modules():
                if isinstance(layer, (_ConvNd, nn.Linear)):
                    hook = layer.register_forward_hook(lambda layer, _, out, name=name: record(name, layer, out))
                    after.callback(hook.remove)
            net.eval()(example)
        if seconds is not None:
            self._unit = {name: seconds.get(name, 0.0) / math.prod(self._width[name]) for name in self._unit}

    @property
    def cost(self) -> float:
        return self._cost_of(self._unit)

    def saved(self, cuts: Iterable[Cut], channels: Iterable[int], sign: int = -1) -> float:
        """Reduction of the current cost by removing these channels of a group, or with `sign` +1 by restoring them."""
        cuts, channels = list(cuts), list(channels)
        layers = {cut.layer for cut in cuts} & self._unit.keys()
        before = self._cost_of(layers)
        self.change(cuts, channels, sign)
        after = self._cost_of(layers)
        self.change(cuts, channels, -sign)
        return before - after

    def change(self, cuts: Iterable[Cut], channels: Iterable[int], sign: int) -> None:
        """Remove (`sign` -1) or restore (`sign` +1) channels of a group."""
        channels = list(channels)
        for cut in cuts:
            if cut.layer in self._unit:
                side = 0 if cut.cuts_outputs else 1
                self._width[cut.layer][side] += sign * sum(len(cut.channels[index]) for index in channels)

    def _cost_of(self, layers: Iterable[str]) -> float:
        return sum(self._unit[name] * self._width[name][0] * self._width[name][1] for name in layers)
