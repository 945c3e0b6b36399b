"""Other activation functions for a trained network, before it is tuned again.

SiLU costs few FLOPs and much time: runtimes read and write every value once or twice more for it, in INT8 even more
often. ReLU is done by the convolution in front of it, at no cost.
"""

from __future__ import annotations

from torch import nn

from compress.config import Activation

KINDS: dict[Activation, type[nn.Module]] = {Activation.relu: nn.ReLU, Activation.relu6: nn.ReLU6}
# By name: timm has classes of its own beside torch's. ReLU costs nothing already, and ReLU6 is part of gates.
REPLACED = {"SiLU", "Swish", "GELU", "GELUTanh", "QuickGELU", "Hardswish", "HardSwish", "Mish", "HardMish", "ELU"}
REPLACED |= {"CELU", "SELU", "LeakyReLU"}


def of(net: nn.Module) -> str | None:
    """What `swap` put into a network; None where it has its own."""
    return getattr(net, "swapped_activation", None)


def swap(net: nn.Module, name: str | None) -> int:
    """Puts `name` in the place of every activation module of `net` that costs time; None leaves all as they are.
    Returns how many there were."""
    if name is None:
        return 0
    kind = KINDS[Activation(name)]
    places = [
        (parent, child, each)
        for parent in net.modules()
        for child, each in parent._modules.items()  # `named_children` names a shared module once
        if type(each).__name__ in REPLACED
    ]
    for parent, child, each in places:
        setattr(parent, child, kind(inplace=bool(getattr(each, "inplace", False))))
    net.swapped_activation = name  # type: ignore[assignment]  # copies keep it, so that a checkpoint can tell
    return len(places)
