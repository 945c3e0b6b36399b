from __future__ import annotations

from compress.measurement.cost import Cost, LayerCost

STEM = LayerCost(100, 10, 50, (1, 4), {"bias": 4, "activation": 16}, 100 * 1024)
HEAD = LayerCost(20, 5, 0, (1, 2), {"bias": 2, "pooling": 0}, 20 * 64)
COST = Cost(120, 15, 60, 50, 32, 16, {"stem": STEM, "stem.head": HEAD})


def test_totals_are_sums_of_the_layers() -> None:
    assert (COST.flops, COST.other_flops, COST.bit_operations) == (240, 22, 100 * 1024 + 20 * 64)
    assert list(COST.other_by_kind.items()) == [("activation", 16), ("bias", 6)]  # the largest first, none of 0
    assert (COST.macs_within("stem"), COST.macs_within("stem.head"), COST.macs_within("ste")) == (120, 20, 0)


def test_intensity_is_flops_per_byte() -> None:
    assert (STEM.flops, STEM.other_flops, STEM.intensity) == (200, 20, 220 / 50)
    assert HEAD.intensity == 0.0  # moves nothing
    assert COST.intensity == 262 / 50
