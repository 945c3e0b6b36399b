from __future__ import annotations

import pytest

from compress.config import MissionConfig
from compress.errors import UserError


def test_a_mission_has_a_battery_and_a_drone() -> None:
    assert not MissionConfig().known and MissionConfig(battery_wh=74, hover_watts=180).known
    with pytest.raises(UserError, match=r"mission\.hover_watts=None: set it too, or mission\.battery_wh=null"):
        MissionConfig(battery_wh=74)
    with pytest.raises(UserError, match=r"mission\.battery_wh=None: set it too"):
        MissionConfig(hover_watts=180)


@pytest.mark.parametrize(("key", "value"), [("battery_wh", 0), ("hover_watts", -1), ("fps", 0), ("payload_watts", -1)])
def test_a_figure_that_no_drone_has_is_named(key: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"mission\.{key}={value}"):
        MissionConfig(**{"battery_wh": 74, "hover_watts": 180, key: value})  # type: ignore[arg-type]
