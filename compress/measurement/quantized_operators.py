"""Products and parameters of torch.ao's quantized modules, whose weights are packed objects, not tensors."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

# Operators of the namespace `quantized` without products.
WITHOUT_PRODUCTS = """
    add add_relu add_scalar add_scalar_relu batch_norm batch_norm1d batch_norm1d_relu batch_norm2d batch_norm2d_relu
    batch_norm3d batch_norm3d_relu batch_norm_relu cat cat_relu celu clamp dropout elu group_norm hardswish
    instance_norm layer_norm leaky_relu max_pool1d max_pool2d mul mul_relu mul_scalar mul_scalar_relu prelu relu6
    sigmoid softmax threshold
""".split()


def packed_macs(func: Any, args: tuple[Any, ...], output: Tensor) -> int | None:
    """MACs of a quantized operator; None if it has no formula."""
    namespace, _, name = func._schema.name.partition("::")
    name = name.removeprefix("_")
    if name in ("quantized_lstm", "quantized_gru") and namespace == "aten":
        if func._overloadname not in ("input", "data"):
            return None
        weights = [weight for weight, _ in unpacked(args)]
        return (args[0].numel() // args[0].shape[-1]) * sum(weight.numel() for weight in weights)
    if namespace not in ("quantized", "_quantized"):
        return None
    if name in WITHOUT_PRODUCTS:
        return 0
    if name == "matmul":
        return output.numel() * args[0].shape[-1]
    weights = [weight for weight, _ in unpacked(args)]
    if name.startswith("quantized_") and "_cell_dynamic" in name and len(weights) == 2:
        return args[0].shape[0] * sum(weight.numel() for weight in weights)
    if len(weights) != 1:
        return None
    if name.startswith("conv_transpose"):
        return args[0].numel() * prod(weights[0].shape[1:])
    if name.startswith("conv"):
        return output.numel() * prod(weights[0].shape[1:])
    return output.numel() * weights[0].shape[-1] if name.startswith("linear") else None


def unpacked(value: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
    """(weight, bias) of every packed object in nested lists; unknown objects are skipped."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from unpacked(item)
    elif isinstance(value, torch.ScriptObject):
        if value._has_method("unpack"):  # type: ignore[attr-defined]
            weight, bias = value.unpack()  # type: ignore[attr-defined]
            yield weight, bias
        elif "CellParams" in str(value._type()):
            yield from unpacked(value.__getstate__())


def packed_parameters(net: nn.Module) -> list[Tensor]:
    """Weights and biases that quantized modules hold as packed objects."""
    values = (value for module in net.modules() for value in vars(module).values())
    packed = {id(value): value for value in values if isinstance(value, torch.ScriptObject)}
    return [tensor for value in packed.values() for pair in unpacked(value) for tensor in pair if tensor is not None]
