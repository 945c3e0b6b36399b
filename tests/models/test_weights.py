from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.models import weights


def test_counters_may_be_stored_as_whole_numbers_in_floating_point() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    given = {name: value.float() + 1 for name, value in net.state_dict().items()}
    for load in (weights.fill, weights.transfer):
        load(net, given, "file")
        assert net[1].num_batches_tracked.dtype == torch.int64 and net[1].num_batches_tracked == 1
    for spoilt in ({"1.num_batches_tracked": torch.tensor(0.5)}, {"0.bias": torch.ones(4, dtype=torch.int8)}):
        with pytest.raises(UserError, match="use the float32 weights"):
            weights.transfer(net, given | spoilt, "file")
