"""The configuration of a drone's flight, for the minutes that compression buys."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compress.config.checks import check, check_plain

_NEEDED = ("battery_wh", "hover_watts")


@dataclass
class MissionConfig:
    battery_wh: float | None = None  # energy that a flight may use, in watt-hours; null: there is no mission
    hover_watts: float | None = None  # power of motors and flight controller
    payload_watts: float = 0.0  # power of everything else that flies, such as camera and radio, without the computer
    fps: float = 30.0  # images per second that the computer evaluates
    device: str | None = None  # profile of the computer on board; null: `device`

    def __post_init__(self) -> None:
        check_plain(self, "mission")
        for name in (*_NEEDED, "fps"):
            value = getattr(self, name)
            check(value is None or 0 < value < math.inf, f"mission.{name}", value, "set a positive number")
        check(self.payload_watts >= 0, "mission.payload_watts", self.payload_watts, "set 0 or a positive number")
        for name, other in (_NEEDED, _NEEDED[::-1]):
            missing = getattr(self, name) is None and getattr(self, other) is not None
            check(not missing, f"mission.{name}", None, f"set it too, or mission.{other}=null")

    @property
    def known(self) -> bool:
        """Whether a mission is set."""
        return self.battery_wh is not None
