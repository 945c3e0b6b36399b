from __future__ import annotations

import pytest

from compress.errors import UserError
from compress.units import FlopsLimit, format_flops

FULL = 1_000_000  # FLOPs of the loaded model


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("50%", 500_000), ("50 %", 500_000), ("12.5%", 125_000), ("100%", FULL),
        ("1.2G", 1_200_000_000), ("800M", 800_000_000), ("800m", 800_000_000), ("3K", 3_000), ("2T", 2 * 10**12),
        ("5e8", 500_000_000), ("5e+08", 500_000_000), ("500000000", 500_000_000), (5e8, 500_000_000), (1e17, 10**17),
        ("1.2 GFLOPs", 1_200_000_000), ("1.2GFLOP", 1_200_000_000), (" 1.2G ", 1_200_000_000), ("7 FLOPs", 7),
    ],
)  # fmt: skip
def test_units(text: str | float, flops: int) -> None:
    result = FlopsLimit.parse(text).of(FULL)
    assert result == flops
    assert isinstance(result, int)


@pytest.mark.parametrize(
    "text",
    ["junk", "", "%", "G", ".", "1,2G", "1..2G", "1.2.3", "1.2GB", "1.2 MACs", "50%%", "1e5%", "nan", "inf", "None"]
    + ["0", "0%", "0.0G", 0, "-1", "-50%", "-1.2G", -1.0, "1e400", "9" * 400],
)  # fmt: skip
def test_no_budget(text: str | float) -> None:
    with pytest.raises(UserError) as caught:
        FlopsLimit.parse(text).of(FULL)
    assert caught.value.key == "budget.flops"
    assert caught.value.value == text
    assert str(caught.value).startswith(f"budget.flops={text}: set ")


def test_a_share_written_without_percent_is_no_budget_of_zero() -> None:
    with pytest.raises(UserError):
        FlopsLimit.parse("0.5").of(FULL)


@pytest.mark.parametrize(
    ("flops", "text"),
    [(5.48e9, "5.48G"), (2_740_150_000, "2.74G"), (812_345_678, "812.3M"), (1_000, "1K"), (999, "999"), (0, "0")],
)
def test_format(flops: float, text: str) -> None:
    assert format_flops(flops) == text
