"""Replaces the activation functions of a trained network before fine-tuning. SiLU costs few FLOPs but much time:
runtimes read and write every value once or twice more for it, in INT8 even more often. ReLU is fused into the preceding
convolution at no cost."""

from __future__ import annotations

from torch import nn

from compress.config import Activation

KINDS: dict[Activation, type[nn.Module]] = {Activation.relu: nn.ReLU, Activation.relu6: nn.ReLU6}
# By class name, because timm defines its own classes. ReLU is free already, and ReLU6 is used in gates.
REPLACED = {"SiLU", "Swish", "GELU", "GELUTanh", "QuickGELU", "Hardswish", "HardSwish", "Mish", "HardMish", "ELU"}
REPLACED |= {"CELU", "SELU", "LeakyReLU"}


def of(net: nn.Module) -> str | None:
    """Name of the activation that `swap` put into `net`; None if the original ones are in place."""
    return getattr(net, "swapped_activation", None)


def swap(net: nn.Module, name: str | None) -> int:
    """Replaces every costly activation module of `net` in place by `name`; None changes nothing.
    Returns the number of modules replaced."""
    if name is None:
        return 0
    kind, count = KINDS[Activation(name)], 0
    for parent in net.modules():
        for child, module in parent._modules.items():  # `named_children` yields a shared module only once
            if type(module).__name__ in REPLACED:
                parent._modules[child] = kind(inplace=bool(getattr(module, "inplace", False)))
                count += 1
    net.swapped_activation = name  # type: ignore[assignment]  # copied with the network, and saved in checkpoints
    return count
