"""Minutes that a battery drone flies with a network on its computer.

    minutes = 60 x battery / (hover + payload + idle + min(1, fps x t) x (loaded - idle))

`loaded` and `idle` are the board's power from the profile of the device, t is the latency of one image. The computer
is loaded for the fraction fps x t of the time. Without a figure for `idle` it is 0, so that the gain is an upper bound.
The mass of the computer is part of `hover`.
"""

from __future__ import annotations

from dataclasses import dataclass

from compress.config import DeviceConfig, MissionConfig


@dataclass(frozen=True)
class Flight:
    """A flight with one network on board."""

    minutes: float
    computer_watts: float  # mean power of the computer
    fps: float  # images per second: those of the mission, or as many as the computer reaches


def flight(mission: MissionConfig, board: DeviceConfig, ms: float) -> Flight:
    """The flight with a network of `ms` milliseconds per image; the board must have `loaded_watts`."""
    assert mission.battery_wh is not None and mission.hover_watts is not None and board.loaded_watts is not None
    loaded, idle = board.loaded_watts.value, board.idle_watts.value if board.idle_watts else 0.0
    fps = min(mission.fps, 1000 / ms)
    watts = idle + fps * ms / 1000 * (loaded - idle)
    total = mission.hover_watts + mission.payload_watts + watts
    return Flight(60 * mission.battery_wh / total, watts, fps)


def without_computer(mission: MissionConfig) -> float:
    """Minutes of the same drone without a computer: no network can add more."""
    assert mission.battery_wh is not None and mission.hover_watts is not None
    return 60 * mission.battery_wh / (mission.hover_watts + mission.payload_watts)
