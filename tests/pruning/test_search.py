from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from compress.config import PruneConfig
from compress.errors import UserError
from compress.pruning.solver import Pruned, prune_to_latency
from tests.models.toy import Net, randomise
from tests.pruning.test_solver import EXAMPLE, PROTECTED, count


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return randomise(Net(width=64))


def milliseconds(net: nn.Module) -> float:
    """Of a device with a constant overhead, on which the first convolution is dear."""
    first = next(each for each in net.modules() if isinstance(each, nn.Conv2d))
    return 2 + 5e-6 * count(net) + 0.01 * first.out_channels


def within(net: Net, limit: float, latency: Callable[[nn.Module], float] = milliseconds, **options: Any) -> Pruned:
    return prune_to_latency(
        net, EXAMPLE, PROTECTED, PruneConfig(round_to=4), limit_ms=limit, latency=latency, count=count, **options
    )


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_the_limit_is_met_and_nearly_used_up(net: Net, share: float) -> None:
    full, least = milliseconds(net), 2.0
    limit = least + share * (full - least)
    pruned = within(net, limit)
    assert 0.95 * limit < milliseconds(pruned.net) <= limit
    assert pruned.macs == count(pruned.net) and pruned.reachable is not None and pruned.reachable[1] == count(net)
    assert within(net, limit).kept == pruned.kept


def test_few_networks_are_tried(net: Net) -> None:
    tried: list[float] = []

    def remembered(candidate: nn.Module) -> float:
        tried.append(milliseconds(candidate))
        return tried[-1]

    within(net, 0.7 * milliseconds(net), remembered)
    assert 3 <= len(tried) <= 10


def test_steps_that_cost_no_time_do_not_mislead(net: Net) -> None:
    """A device whose latency falls in one jump: the most MACs below it."""
    full = count(net)
    pruned = within(net, 1.5, lambda candidate: 1.0 if count(candidate) <= full // 2 else 2.0)
    assert pruned.macs is not None and 0.4 * full < pruned.macs <= full // 2


@pytest.mark.parametrize(("limit", "remedy"), [(1.0, "raise the limit"), (1e6, "already meets the limit")])
def test_a_limit_out_of_reach_names_the_range(net: Net, limit: float, remedy: str) -> None:
    with pytest.raises(UserError, match=rf"budget\.latency_ms=\S+: pruning can reach \S+ to \S+ ms: .*{remedy}"):
        within(net, limit)
