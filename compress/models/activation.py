"""Other activation functions for a trained network, before it is tuned again.

SiLU costs few FLOPs and much time: runtimes read and write every value once or twice more for it, in INT8 even more
often. ReLU is done by the convolution in front of it, at no cost.
"""

from __future__ import annotations

from torch import nn

from compress.config import Activation

KINDS: dict[Activation, type[nn.Module]] = {Activation.relu: nn.ReLU, Activation.relu6: nn.ReLU6}
REPLACED = (nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.ELU, nn.LeakyReLU, nn.ReLU, nn.ReLU6)


def of(net: nn.Module) -> str | None:
    """What `swap` put into a network; None where it has its own."""
    return getattr(net, "swapped_activation", None)


def swap(net: nn.Module, name: str | None) -> int:
    """Puts `name` in the place of every activation module of `net` but gates, in place; None leaves all as they are.
    Returns how many there were."""
    if name is None:
        return 0
    kind = KINDS[Activation(name)]
    places = [
        (parent, child) for parent in net.modules() for child, each in parent.named_children()
        if isinstance(each, REPLACED)
    ]  # fmt: skip
    for parent, child in places:
        setattr(parent, child, kind(inplace=True))
    net.swapped_activation = name  # type: ignore[assignment]  # copies keep it, so that a checkpoint can tell
    return len(places)
