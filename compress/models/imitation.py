"""How far the layers of a network are from its teacher's: a loss to train with beside that on the answers.

Each channel that pruning left is one that the teacher has too, so the two are compared one to one, without an adapter
between them as other students need it (hints: Romero et al., FitNets, arXiv:1412.6550). A deeply pruned network, whose
answers say little yet, learns from them what its layers are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.product import Teacher

LEAST_SCALE = 1e-2  # of a BatchNorm, below which a channel counts as one that hardly varies
BLOCK = 2  # parts of a layer's name that name its block: model.4.cv2.bn is in model.4, layer1.0.bn2 in layer1.0


@contextmanager
def compared(net: nn.Module, teacher: Teacher) -> Iterator[Callable[[], Tensor | float]]:
    """While open, notes what the BatchNorms of both networks give; the callable says how far apart the last ones of each
    block were: the mean over blocks of the mean squared difference, in deviations of the teacher's channels. 0 at no
    cost where the teacher's `features` weigh nothing."""
    if not teacher.features:
        yield lambda: 0.0
        return
    theirs = {name: layer for name, layer in teacher.net.named_modules() if isinstance(layer, _BatchNorm)}
    ours = {name: layer for name, layer in net.named_modules() if name in theirs}
    found: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, inputs: object, output: Tensor) -> None:
        found[layer] = output

    hooks = [layer.register_forward_hook(note) for layer in (*theirs.values(), *ours.values())]
    try:
        pairs = {name: (ours[name], theirs[name]) for name in ours}
        yield partial(_distance, pairs, found, teacher)
    finally:
        for hook in hooks:
            hook.remove()


def _distance(
    pairs: dict[str, tuple[nn.Module, _BatchNorm]], found: dict[nn.Module, Tensor], teacher: Teacher
) -> Tensor | float:
    names = {ours: name for name, (ours, _) in pairs.items()}
    last: dict[tuple[str, ...], str] = {}
    for layer in found:  # in the order in which they ran
        name = names.get(layer)
        if name is not None and pairs[name][1] in found:
            last[tuple(name.split(".")[:BLOCK])] = name
    return sum(_difference(*pairs[name], found, teacher.kept.get(name)) for name in last.values()) / max(1, len(last))


def _difference(
    ours: nn.Module, theirs: _BatchNorm, found: dict[nn.Module, Tensor], kept: Tensor | None
) -> Tensor | float:
    wanted = found[theirs].detach()
    # A BatchNorm's scale is the deviation of what it gives.
    scale = theirs.weight.detach().abs() if theirs.affine else wanted.new_ones(wanted.shape[1])
    if kept is not None:
        wanted, scale = wanted.index_select(1, kept), scale[kept]
    weight = (scale + LEAST_SCALE).reciprocal().to(wanted.dtype).view(-1, *[1] * (wanted.ndim - 2))
    return torch.square(((found[ours] - wanted) * weight).float()).mean()
