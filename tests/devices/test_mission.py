from __future__ import annotations

import pytest

from compress.config import DeviceConfig, Figure, MissionConfig
from compress.devices.mission import flight, without_computer

MISSION = MissionConfig(battery_wh=50, hover_watts=140, payload_watts=2, fps=20)
BOARD = DeviceConfig("board", idle_watts=Figure(2, "a meter"), loaded_watts=Figure(10, "a meter"))


def test_a_flight_by_hand() -> None:
    """25 ms at 20 images a second: loaded half of the time, 6 W; 50 Wh / 148 W."""
    result = flight(MISSION, BOARD, 25)
    assert (result.computer_watts, result.fps) == (6.0, 20)
    assert result.minutes == pytest.approx(60 * 50 / 148)
    assert result.minutes < without_computer(MISSION) == pytest.approx(60 * 50 / 142)


def test_a_network_that_is_too_slow_uses_the_whole_computer() -> None:
    result = flight(MISSION, BOARD, 100)
    assert (result.computer_watts, result.fps) == (10.0, 10)


def test_an_unknown_idle_power_is_none() -> None:
    assert flight(MISSION, DeviceConfig("b", loaded_watts=Figure(10, "a meter")), 25).computer_watts == 5.0
