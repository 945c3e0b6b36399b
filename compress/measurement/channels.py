"""Channel counts that vector units do not like: FLOPs do not see them, runtimes do."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from compress.budget import Remark
from compress.capabilities import Model
from compress.measurement.flops import Cost

LANES = 8  # runtimes lay out channels in blocks of 8 or 16, as wide as the vector unit
WORTH_SAYING = 0.1  # of the MACs
IMAGE = 4  # input channels at most: runtimes have kernels of their own for the first layer


def remarks(model: Model, cost: Cost, round_to: int | None) -> list[Remark]:
    """Says which share of the MACs is done by convolutions and linear layers whose channels do not fill blocks, where
    it is a large one. `cost`: of the model's deployed form. `round_to`: of the pruning; None where nothing was pruned.
    """
    net = model.deployed()
    odd = [name for name, layer in net.named_modules() if name in cost.layers and _is_odd(layer)]
    share = sum(cost.layers[name].macs for name in odd) / max(cost.macs, 1)
    if share < WORTH_SAYING:
        return []
    text = (
        f"{len(odd)} layers that do {share:.0%} of the MACs have channel counts that are no multiple of {LANES}: "
        "vector units run partly empty there, which FLOPs do not show. "
    )
    if round_to is not None and round_to % LANES:
        text += f"prune.round_to={LANES} or {2 * LANES} takes as many FLOPs out in whole blocks: compare the latency."
    else:
        text += "They are the network's own: widths in whole blocks would do more work in the same time."
    return [Remark("odd_channels", text, {"layers": len(odd), "macs_share": share}, lasting=True)]


def _is_odd(layer: nn.Module) -> bool:
    if isinstance(layer, _ConvNd):
        counts = (layer.in_channels if layer.in_channels > IMAGE else 0, layer.out_channels)
    elif isinstance(layer, nn.Linear):
        counts = (layer.in_features, layer.out_features)
    else:
        return False
    return any(count % LANES for count in counts)
