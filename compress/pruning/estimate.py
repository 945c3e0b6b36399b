"""A quick estimate of the MACs that a choice of channels leaves, without cutting anything.

It sees the convolutions and linear layers of the network as traced, so heads that go before deployment are in it and
attention's matrix products are not. It guides the search; what counts is counted exactly.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compress.pruning.groups import Cut


class Estimate:
    """MACs of the layers of a network while channels leave and come back."""

    def __init__(self, net: nn.Module, example: Tensor) -> None:
        self._unit: dict[str, float] = {}  # MACs for one output and one input channel
        self._width: dict[str, list[int]] = {}  # [output, input] channels
        self._measure(net, example)

    @property
    def macs(self) -> float:
        return sum(unit * self._width[name][0] * self._width[name][1] for name, unit in self._unit.items())

    def change(self, cuts: Iterable[Cut], channels: Iterable[int], sign: int) -> None:
        """Let channels of a group leave (`sign` -1) or come back (+1)."""
        chosen = list(channels)
        for cut in cuts:
            if cut.layer in self._unit:
                side = 0 if cut.cuts_outputs else 1
                self._width[cut.layer][side] += sign * sum(len(cut.channels[channel]) for channel in chosen)

    def _measure(self, net: nn.Module, example: Tensor) -> None:
        def record(name: str, layer: nn.Module, output: Tensor) -> None:
            if isinstance(layer, _ConvNd):
                positions = output[:, 0].numel() * layer.weight[0, 0].numel()
                plain = layer.groups == 1
                self._unit[name] = self._unit.get(name, 0) + positions
                self._width[name] = [
                    layer.out_channels,
                    layer.in_channels if plain else layer.weight.shape[1],
                ]
            elif isinstance(layer, nn.Linear):
                self._unit[name] = self._unit.get(name, 0) + output[..., 0].numel()
                self._width[name] = [layer.out_features, layer.in_features]

        hooks = [
            layer.register_forward_hook(lambda layer, _, out, name=name: record(name, layer, out))
            for name, layer in net.named_modules()
            if isinstance(layer, (_ConvNd, nn.Linear))
        ]
        training = net.training
        try:
            with torch.no_grad():
                net.eval()(example)
        finally:
            net.train(training)
            for hook in hooks:
                hook.remove()
