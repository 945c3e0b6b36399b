"""Channel counts that leave vector units partly idle, which FLOPs do not show."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from compress.budget import Remark
from compress.capabilities import Model
from compress.measurement.cost import Cost

LANES = 8  # runtimes lay out channels in blocks of 8 or 16, the width of a vector unit
WORTH_SAYING = 0.1  # fraction of the MACs
IMAGE = 4  # most input channels of a first layer, for which runtimes have special kernels


def remarks(model: Model, cost: Cost, round_to: int | None) -> list[Remark]:
    """A remark if layers whose channels do not fill blocks have a large fraction of the MACs; else an empty list.
    `cost`: of the model's deployed form. `round_to`: channel multiple of the pruning; None if nothing was pruned."""
    odd = [name for name, layer in model.deployed().named_modules() if name in cost.layers and _is_odd(layer)]
    fraction = sum(cost.layers[name].macs for name in odd) / max(cost.macs, 1)
    if fraction < WORTH_SAYING:
        return []
    text = (
        f"{len(odd)} layers with {fraction:.0%} of the MACs have channel counts that are no multiple of {LANES}: "
        "vector units are partly idle there, which FLOPs do not show; "
    )
    if round_to is not None and round_to % LANES:
        text += f"set prune.round_to={LANES} or {2 * LANES} to remove FLOPs in whole blocks, and compare the latency."
    else:
        text += "the network itself has these widths; whole blocks would compute more in the same time."
    return [Remark("odd_channels", text, {"layers": len(odd), "macs_share": fraction}, lasting=True)]


def _is_odd(layer: nn.Module) -> bool:
    if isinstance(layer, _ConvNd):
        counts = (layer.in_channels if layer.in_channels > IMAGE else 0, layer.out_channels)
    elif isinstance(layer, nn.Linear):
        counts = (layer.in_features, layer.out_features)
    else:
        return False
    return any(count % LANES for count in counts)
