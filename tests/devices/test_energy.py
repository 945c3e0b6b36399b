from __future__ import annotations

import pytest

from compress.config import BudgetConfig, DeviceConfig, Figure
from compress.devices import energy
from compress.errors import UserError

BOARD = DeviceConfig("board", loaded_watts=Figure(8.0, "a wattmeter"))


def test_energy_of_work_by_hand() -> None:
    """10^9 MACs, 10^8 other FLOPs, 10^7 bytes of which 4 x 10^6 are weights, in FP32: pJ / 10^9 = mJ."""
    result = energy.of_work(10**9, 10**8, 10**7, 4 * 10**6, "fp32")
    arithmetic = 4.6 + 0.09
    assert result.low == pytest.approx(arithmetic + 0.004 * 162.5 + 0.006 * 12.5)
    assert result.high == pytest.approx(arithmetic + 0.01 * 325)
    int8 = energy.of_work(10**9, 0, 10**7, 4 * 10**6, "int8")
    assert int8.high == pytest.approx(0.3 + 0.0025 * 325) and int8.low < int8.high < result.low


def test_watts_times_milliseconds_are_millijoules() -> None:
    assert BOARD.energy_mj(25.0) == 200.0
    assert DeviceConfig("other").energy_mj(25.0) is None


def test_a_limit_that_nothing_can_judge_is_refused() -> None:
    budget = BudgetConfig(energy_mj=50.0)
    with pytest.raises(UserError, match=r"budget\.energy_mj=50\.0: the power of other is not known: set"):
        energy.check(budget, DeviceConfig("other"), counters=True)
    with pytest.raises(UserError, match=r"budget\.energy_mj=50\.0: no energy counter of this machine"):
        energy.check(budget, DeviceConfig(), counters=False)
    energy.check(budget, DeviceConfig(), counters=True)
    energy.check(budget, BOARD, counters=False)
    energy.check(BudgetConfig(), DeviceConfig("other"), counters=False)
