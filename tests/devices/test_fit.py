"""Lines through published latencies, and the profiles that hold them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from compress.config import CONF, LatencyFit, compose
from compress.devices import fit
from compress.targets import TARGETS

ROOT = Path(__file__).parents[2]
PROFILES = sorted(fit.published())


def test_profiles_are_what_the_published_times_give(tmp_path: Path) -> None:
    shutil.copytree(CONF / "device", tmp_path, dirs_exist_ok=True)
    fit_devices(tmp_path)
    assert contents(tmp_path) == contents(CONF / "device")


def test_what_is_written_by_hand_stays(tmp_path: Path) -> None:
    """The lines are replaced, whatever else a profile holds; a device without a profile receives one."""
    hand = "# mine\nname: raspberry_pi_5\nidle_watts: {value: 3, source: my meter}\nanything: [else]\n"
    made = (CONF / "device" / "raspberry_pi_5.yaml").read_text()
    path = tmp_path / "raspberry_pi_5.yaml"
    path.write_text(f"{hand}# Written by {made.partition('# Written by ')[2]}".replace("a_ms: ", "a_ms: 1"))
    fit_devices(tmp_path)
    assert path.read_text() == hand + "".join(made.partition("# Written by ")[1:])
    assert set(contents(tmp_path)) == {f"{profile}.yaml" for profile in PROFILES}
    new = yaml.safe_load((tmp_path / "jetson_orin_nx.yaml").read_text())
    assert set(new) == {"name", "source", "fits"} and new["name"] == "jetson_orin_nx"


def fit_devices(folder: Path) -> None:
    subprocess.run([sys.executable, "scripts/fit_devices.py", str(folder)], cwd=ROOT, check=True)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("profile", PROFILES)
def test_no_published_time_is_above_the_peak(profile: str) -> None:
    """The slope of a line is a rate that the device reaches: a peak below it would be wrong."""
    device = compose(["recipe=drone_nano", f"device={profile}"]).device
    for line in device.fits:
        if line.precision in device.peak_gops:
            assert 1000 / line.b_ms_per_gflop < device.peak_gops[line.precision].value, line


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_stands_close_to_every_published_time(profile: str) -> None:
    device = compose(["recipe=drone_nano", f"device={profile}"]).device
    assert (device.name, bool(device.source)) == (profile, True)
    lines = {(line.runtime, line.precision): line for line in device.fits}
    for published in fit.published()[profile]:
        line = lines[published["runtime"], published["precision"]]
        ms = line.a_ms + line.b_ms_per_gflop * float(published["gflops"])
        assert ms == pytest.approx(float(published["ms"]), rel=line.error_fitted + 0.001)
        assert line.error_fitted <= 0.1
        assert line.error >= line.error_fitted
        assert line.gflops[0] <= float(published["gflops"]) + 0.001


def test_the_host_promises_nothing() -> None:
    assert set(yaml.safe_load((CONF / "device" / "host.yaml").read_text())) == {"name", "targets"}


@pytest.mark.parametrize("path", sorted((CONF / "device").glob("*.yaml")), ids=lambda path: path.stem)
def test_devices_name_targets_that_there_are(path: Path) -> None:
    assert set(yaml.safe_load(path.read_text())["targets"]) <= set(TARGETS)


def test_a_line_through_exact_points_is_found() -> None:
    rows = [{"runtime": "r", "precision": "p", "gflops": str(g), "ms": str(2 + 0.5 * g)} for g in (1, 10, 100)]
    assert fit.fits(rows) == [LatencyFit("r", "p", 2.0, 0.5, 0.0, [1.0, 100.0], 0.0)]


def test_the_error_is_that_of_a_network_left_out() -> None:
    points = [(1.0, 2.5), (2.0, 3.0), (4.0, 8.0)]  # the line through the first two meets 4 GFLOPs at 4 ms
    assert fit.largest_error(fit.line(points[:2]), points[2:]) == pytest.approx(0.5)
    assert fit.left_out_error(points) >= 0.5 > fit.largest_error(fit.line(points), points)


def test_the_line_has_the_least_squares_of_relative_errors() -> None:
    """Every line near it has more."""
    points = [(1.0, 2.5), (2.0, 3.0), (4.0, 8.0), (50.0, 60.0)]

    def squares(a: float, b: float) -> float:
        return sum(((a + b * gflops) / ms - 1) ** 2 for gflops, ms in points)

    a, b = fit.line(points)
    best = squares(a, b)
    assert all(squares(a + da, b + db) > best for da in (-0.01, 0, 0.01) for db in (-0.01, 0, 0.01) if da or db)


def test_a_small_network_weighs_as_much_as_a_large_one() -> None:
    """Without weights, the line would pass close to the large network and miss the small ones by half."""
    points = [(1.0, 2.0), (2.0, 3.0), (400.0, 800.0)]
    weighted = fit.largest_error(fit.line(points), points[:2])
    gflops, ms = np.array(points).T
    b, a = np.polyfit(gflops, ms, 1)
    assert weighted < 0.2 < fit.largest_error((a, b), points[:2])


def test_two_rows_of_one_network_leave_together() -> None:
    """Otherwise its second row would give away its time."""
    others = [(float(gflops), 1.0 + gflops) for gflops in range(1, 21)]
    assert fit.left_out_error([*others, (21.0, 44.0), (21.0, 44.0)]) == pytest.approx(0.5)  # their line says 22 ms


def test_each_runtime_and_precision_has_its_own_line() -> None:
    rows = [
        {"runtime": runtime, "precision": precision, "gflops": str(gflops), "ms": str(start + gflops)}
        for runtime, precision, start in (("a", "fp16", 1), ("a", "int8", 2), ("b", "int8", 3))
        for gflops in (1, 2, 5)
    ]
    result = fit.fits(rows)
    assert [(line.runtime, line.precision, line.a_ms) for line in result] == [
        ("a", "fp16", 1.0), ("a", "int8", 2.0), ("b", "int8", 3.0),
    ]  # fmt: skip


def test_numbers_are_rounded_to_four_digits() -> None:
    assert [fit._rounded(value) for value in (123456.0, 1.23456, 0.000123456)] == [123500.0, 1.235, 0.0001235]
