"""The least-squares problem of one layer: from sampled inputs and target outputs to new weights.

A convolution and the BatchNorm after it are one affine function, whose output is the target. After solving it is split
again, so that the norm of each filter is as before and the statistics of BatchNorm are those of the new outputs.
Fine-tuning, which uses the statistics of its batches, then starts from the same function, with weights of the magnitude
that the learning rate is meant for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.reconstruction.layers import Layer, Solvable, inputs_at, outputs_at, sample
from compress.reconstruction.least_squares import Moments, select_ridge, solve_bounded

POSITIONS = 20  # sampled output positions per image and layer, if that is enough
SAMPLES_PER_UNKNOWN = 4
HOLD_OUT = 5  # every 5th image selects the ridge
CHUNK = 30  # images whose inputs are gathered at once
UNCHANGED = 1e-9  # a layer with a smaller unexplained fraction of the variance keeps its weights, bit for bit


@dataclass(frozen=True)
class Solution:
    """What reconstruction did to a layer."""

    layer: str
    samples: int
    before: float  # fraction of the targets' variance that the layer did not explain
    after: float  # the same with its new weights
    ridge: float  # selected by the held-out images
    growth: float  # largest ratio of the norms of an output's weights, BatchNorm's scale included, to before


class Problem:
    """Collects the targets of a layer, then its inputs, and solves it."""

    def __init__(self, net: nn.Module, layer: Layer, images: int, seed: int) -> None:
        module, norm = _modules(net, layer)
        self.layer, self._module, self._norm = layer, module, norm
        self._groups = module.groups if isinstance(module, nn.Conv2d) else 1
        self._biased = norm is not None or module.bias is not None
        scale, shift = _affine(norm, len(module.weight))
        constant = shift if module.bias is None else shift + scale * _double(module.bias)
        self._weight = self._grouped(_double(module.weight).flatten(1) * scale[:, None])  # (g, o, k)
        self._bias = self._grouped(constant)  # (g, o)
        count = max(POSITIONS, math.ceil(SAMPLES_PER_UNKNOWN * layer.unknowns / images))
        self._positions = sample(layer, images, count, seed)
        self.targets: dict[int, Tensor] = {}  # {first image of a batch whose inputs are missing: (b, p, channels)}
        self._moments: dict[bool, Moments] = {}  # of inputs and errors; key: whether the images are held out
        self._targets_seen: list[Moments] = []  # of the targets alone

    def add_targets(self, start: int, reference: nn.Module, output: Tensor, kept: Sequence[int] | None) -> None:
        """Stores the targets of the images from `start`: the channels `kept` (None: all) of the `output` of the same
        layer in the unpruned network, through its BatchNorm."""
        module, norm = _modules(reference, self.layer)
        values = outputs_at(module, output, self._positions[start : start + len(output)]).cpu()
        scale, shift = _affine(norm, values.shape[2])
        values = (values * scale + shift).float()
        self.targets[start] = values if kept is None else values[..., list(kept)]

    def add_inputs(self, start: int, inputs: Tensor) -> None:
        """Adds the `inputs` (b, …) of the images from `start`, and drops their targets."""
        targets = self.targets.pop(start)
        all_positions = self._positions[start : start + len(targets)]
        for first in range(0, len(targets), CHUNK):
            part = slice(first, first + CHUNK)
            positions, target = all_positions[part], targets[part]
            x = inputs_at(self._module, inputs[part], positions).cpu().double()  # (g, n, k)
            t = target.double().flatten(0, 1).unflatten(1, (self._groups, -1)).movedim(1, 0)  # (g, n, o)
            held_out = torch.arange(start + first, start + first + len(target), device="cpu") % HOLD_OUT == 0
            rows = held_out[:, None].expand(positions.shape).flatten()
            error = t - x @ self._weight.mT - self._bias[:, None]
            for held, selected in ((True, rows), (False, ~rows)):
                new = Moments.of(x[:, selected], error[:, selected])
                self._moments[held] = self._moments[held] + new if held in self._moments else new
            self._targets_seen.append(Moments.of(x[..., :0], t))

    def solve(self, growth: float) -> Solution | None:
        """Solves the layer and sets its weights, bias and BatchNorm. Returns None, and changes nothing, if the layer
        already computes its targets or no solution is better on the held-out images.

        `growth`: bound on the norm of an output's weights, relative to before."""
        fitted, held_out = self._moments[False], self._moments[True]
        total, targets = fitted + held_out, sum(self._targets_seen[1:], self._targets_seen[0])
        variance = (targets.ee / targets.count - (targets.e / targets.count).square()).sum().item()
        if (before := total.ee.sum().item() / total.count) <= UNCHANGED * variance:
            return None
        ridge = select_ridge(fitted, held_out, self._biased)
        if ridge is None:
            return None
        change, bias = solve_bounded(total, ridge, self._biased, self._weight, growth)
        after = total.error(change, bias).sum().item()
        self._set(self._weight + change, self._bias + bias, total)
        grown = ((self._weight + change).norm(dim=2) / self._weight.norm(dim=2).clamp_min(1e-12)).max().item()
        return Solution(self.layer.name, total.count, before / variance, after / variance, ridge, grown)

    @torch.no_grad()
    def _set(self, weight: Tensor, bias: Tensor, moments: Moments) -> None:
        """Sets the layer and its BatchNorm to the affine function with `weight` (g, o, k) and `bias` (g, o)."""
        module, norm = self._module, self._norm
        if norm is None:
            module.weight.copy_(weight.reshape(module.weight.shape))
            if module.bias is not None:
                module.bias.copy_(bias.flatten())
            return
        assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
        # scale * filter = weight, with the norm that the filter had.
        had = self._grouped(_double(module.weight).flatten(1)).norm(dim=2)
        scale = weight.norm(dim=2) / had.clamp_min(1e-12)
        scale = torch.where(scale > 1e-12, scale, 1.0)
        scale = torch.where(self._grouped(_double(norm.weight)) < 0, -scale, scale)
        filters = weight / scale[:, :, None]
        covariance, _ = moments.covariances(True)
        mean = torch.einsum("gok,gk->go", filters, moments.x / moments.count)
        variance = torch.einsum("gok,gkl,gol->go", filters, covariance, filters).clamp_min(0)
        constant = 0.0 if module.bias is None else self._grouped(_double(module.bias))
        module.weight.copy_(filters.reshape(module.weight.shape))
        norm.running_mean.copy_((mean + constant).flatten())
        norm.running_var.copy_(variance.flatten())
        norm.weight.copy_((scale * (variance + norm.eps).sqrt()).flatten())
        norm.bias.copy_((bias + scale * mean).flatten())

    def _grouped(self, values: Tensor) -> Tensor:
        """(channels, …) to (g, o, …)."""
        return values.unflatten(0, (self._groups, -1))


def _modules(net: nn.Module, layer: Layer) -> tuple[Solvable, nn.Module | None]:
    module = net.get_submodule(layer.name)
    assert isinstance(module, Solvable)
    return module, None if layer.norm is None else net.get_submodule(layer.norm)


def _affine(norm: nn.Module | None, width: int) -> tuple[Tensor, Tensor]:
    """Scale and shift (width,) in float64 of a BatchNorm in eval mode; 1 and 0 without one."""
    if norm is None:
        one = torch.ones(width, dtype=torch.float64, device="cpu")
        return one, torch.zeros_like(one)
    assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
    scale = _double(norm.weight) / (_double(norm.running_var) + norm.eps).sqrt()
    return scale, _double(norm.bias) - scale * _double(norm.running_mean)


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)
