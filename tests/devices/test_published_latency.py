"""Published latencies beside the profiles of their devices."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from compress.config import CONF, compose
from compress.devices import published_latency
from compress.targets import TARGETS

PROFILES = sorted(published_latency.rows())


@pytest.mark.parametrize("profile", PROFILES)
def test_no_published_latency_is_below_that_of_the_peak(profile: str) -> None:
    """It would mean that the peak is wrong."""
    peaks = compose(["recipe=drone_nano", f"device={profile}"]).device.peak_gops
    known = [row for row in published_latency.rows()[profile] if row["precision"] in peaks]
    assert known
    for row in known:
        assert float(row["gflops"]) / float(row["ms"]) < peaks[row["precision"]].value / 1000, row


def test_the_host_promises_nothing() -> None:
    assert set(yaml.safe_load((CONF / "device" / "host.yaml").read_text())) == {"name", "targets"}


@pytest.mark.parametrize("path", sorted((CONF / "device").glob("*.yaml")), ids=lambda path: path.stem)
def test_devices_name_targets_that_there_are(path: Path) -> None:
    assert set(yaml.safe_load(path.read_text())["targets"]) <= set(TARGETS)
