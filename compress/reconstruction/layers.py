"""The layers that are reconstructed: convolutions and linear layers, in the order in which they run, each with the
BatchNorm that follows it. Their inputs are gathered at sampled output positions."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from compress.errors import UserError

Solvable = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class Layer:
    """One layer of a traced network."""

    name: str
    norm: str | None  # the BatchNorm that takes its output
    positions: int  # outputs of one channel for one image
    unknowns: int  # weights of one output channel, and its bias


def trace(net: nn.Module, example: Tensor) -> tuple[list[Layer], int]:
    """Returns the layers that can be reconstructed, in the order in which they run, and the size in bytes of the
    largest output of a module.

    Not included: transposed, 1D and 3D convolutions, layers with computed or untrained weights, subclasses with a
    forward pass of their own (timm's Conv2dSame), and layers that run several times in one pass, because their calls
    have different targets.

    Args:
        net: in eval mode.
        example: one image, (1, c, s, s).
    """
    names = {module: name for name, module in net.named_modules()}
    calls: Counter[nn.Module] = Counter()
    order: list[nn.Module] = []
    outputs: dict[nn.Module, Tensor] = {}  # holds the tensors, so that none is allocated in place of another
    norms: dict[nn.Module, nn.Module] = {}
    largest = 0

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel() * output.element_size())
        if isinstance(module, Solvable):
            assert isinstance(output, Tensor)
            calls[module] += 1
            order.append(module)
            outputs[module] = output
        elif isinstance(module, _BatchNorm) and module.affine and module.running_mean is not None:
            calls[module] += 1
            norms.update({layer: module for layer, output in outputs.items() if output is inputs[0]})

    with ExitStack() as hooks, torch.no_grad():
        for module in names:
            hooks.enter_context(module.register_forward_hook(after))
        net(example)
    layers = []
    for module in order:
        assert isinstance(module, Solvable)
        image_first = isinstance(module, nn.Linear) or len(outputs[module]) == len(example)
        norm, width = norms.get(module), len(module.weight)
        once = calls[module] == 1 and (norm is None or calls[norm] == 1)
        if once and image_first and _is_plain(module):
            biased = norm is not None or module.bias is not None
            positions, unknowns = outputs[module].numel() // width, module.weight[0].numel() + biased
            layers.append(Layer(names[module], None if norm is None else names[norm], positions, unknowns))
    return layers, largest


def _is_plain(module: Solvable) -> bool:
    """True if the layer computes what its class promises, from weights that are trained."""
    kind = nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d
    return type(module).forward is kind.forward and "weight" in module._parameters and module.weight.requires_grad


def check_images(layers: list[Layer], images: int) -> None:
    """Raises UserError if a layer has more unknowns than `images` have output positions."""
    for layer in layers:
        if (least := math.ceil(layer.unknowns / layer.positions)) > images:
            counts = f"{layer.unknowns} unknowns per output channel and {layer.positions} output(s) of it per image"
            raise UserError(
                "reconstruct.images", images, f"the layer {layer.name} has {counts}: it needs {least} images"
            )


def sample(layer: Layer, images: int, count: int, seed: int) -> Tensor:
    """Draws min(`count`, `layer.positions`) different output positions of each image: int64 (images, positions)."""
    if count >= layer.positions:
        return torch.arange(layer.positions, device="cpu").repeat(images, 1)
    generator = torch.Generator().manual_seed(seed)
    ranks = [torch.rand(layer.positions, generator=generator, device="cpu") for _ in range(images)]
    return torch.stack([rank.topk(count).indices for rank in ranks])


def outputs_at(module: Solvable, output: Tensor, positions: Tensor) -> Tensor:
    """Returns the outputs of a layer at `positions` (b, p): (b, p, channels)."""
    batch = len(positions)
    rows = output.flatten(2).mT if isinstance(module, nn.Conv2d) else output.reshape(batch, -1, output.shape[-1])
    return rows[torch.arange(batch, device=rows.device)[:, None], positions.to(rows.device)]


def inputs_at(module: Solvable, inputs: Tensor, positions: Tensor) -> Tensor:
    """Returns the inputs that the outputs at `positions` (b, p) depend on: (groups, b * p, weights of one output), in
    the order of `module.weight`."""
    batch, count = positions.shape
    positions = positions.to(inputs.device)
    image = torch.arange(batch, device=inputs.device)[:, None]
    if isinstance(module, nn.Linear):
        return inputs.reshape(batch, -1, inputs.shape[-1])[image, positions].reshape(1, batch * count, -1)
    padding = module._reversed_padding_repeated_twice
    if any(padding):
        mode = module.padding_mode.replace("zeros", "constant")
        inputs = functional.pad(inputs, padding, mode=mode)
    width = (inputs.shape[3] - module.dilation[1] * (module.kernel_size[1] - 1) - 1) // module.stride[1] + 1
    offsets = [
        d * torch.arange(k, device=inputs.device) for d, k in zip(module.dilation, module.kernel_size, strict=True)
    ]
    rows = (positions // width * module.stride[0])[:, :, None, None] + offsets[0][:, None]
    columns = (positions % width * module.stride[1])[:, :, None, None] + offsets[1]
    patches = inputs.movedim(1, 3)[image[:, :, None, None], rows, columns]  # (b, p, kh, kw, c)
    return patches.movedim(4, 2).reshape(batch * count, module.groups, -1).movedim(1, 0)
