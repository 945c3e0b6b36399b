from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from compress import devices
from compress.config import CONF, BudgetConfig, Config, DeviceConfig, LatencyFit, compose
from compress.devices import fit
from compress.errors import UserError
from compress.ledger import Row
from compress.targets import TARGETS

ROOT = Path(__file__).parents[2]
PROFILES = sorted(fit.published())
FREE = ["recipe=drone_nano", "budget.flops=null"]


def config(fps: float = 100.0, *, stages: tuple[str, ...] = ("prune", "quantize"), **budget: object) -> Config:
    """A device of two lines: int8 takes 4 ms + 1 ms a GFLOP, fp16 3 ms + 4 ms a GFLOP."""
    lines = [LatencyFit("tensorrt", "int8", 4, 1, 0.05, [2, 20]), LatencyFit("tensorrt", "fp16", 3, 4, 0.02, [2, 20])]
    device = DeviceConfig("board", "a test", lines)
    return Config(stages=list(stages), device=device, budget=BudgetConfig(fps=fps, **budget))  # type: ignore[arg-type]


def refusal(config: Config) -> str:
    with pytest.raises(UserError) as caught:
        devices.resolve(config)
    return str(caught.value)


def row(flops: int, target: str | None, precision: str) -> Row:
    return Row("export", target, precision, imgsz=640, macs=flops // 2)


# --- profiles -------------------------------------------------------------------------------------------------


def test_profiles_are_what_the_published_times_give(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "scripts/fit_devices.py", str(tmp_path)], cwd=ROOT, check=True)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {name: (CONF / "device" / name).read_text() for name in made}
    assert {path.removesuffix(".yaml") for path in made} == set(PROFILES)


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


def test_devices_choose() -> None:
    host, board, old = (
        compose(["recipe=drone_nano", f"device={name}"]) for name in ("host", "raspberry_pi_5", "jetson_nano")
    )
    assert host.targets == ["onnxruntime", "openvino", "tensorrt"] and host.export.opset == 17
    assert "ncnn" in board.targets and "tensorrt" not in board.targets and board.device.precisions[0] == "int8"
    assert (old.targets, old.device.precisions, old.export.opset) == (["tensorrt"], ["fp16"], 13)
    told = compose(["recipe=drone_nano", "device=jetson_nano", "targets=[onnxruntime]"])
    assert told.targets == ["onnxruntime"]  # what is named goes first


@pytest.mark.parametrize("path", sorted((CONF / "device").glob("*.yaml")), ids=lambda path: path.stem)
def test_devices_name_targets_that_there_are(path: Path) -> None:
    assert set(yaml.safe_load(path.read_text())["targets"]) <= set(TARGETS)


def test_a_precision_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match=r"device\.precisions=int4: choose from fp32, fp16, int8"):
        DeviceConfig("board", precisions=["int4"])


def test_a_line_through_exact_points_is_found() -> None:
    rows = [{"runtime": "r", "precision": "p", "gflops": str(g), "ms": str(2 + 0.5 * g)} for g in (1, 10, 100)]
    assert fit.fits(rows) == [LatencyFit("r", "p", 2.0, 0.5, 0.0, [1.0, 100.0], 0.0)]


def test_the_error_is_that_of_a_network_left_out() -> None:
    points = [(1.0, 2.5), (2.0, 3.0), (4.0, 8.0)]  # the line through the first two meets 4 GFLOPs at 4 ms
    assert fit.largest_error(fit.line(points[:2]), points[2:]) == pytest.approx(0.5)
    assert fit.left_out_error(points) >= 0.5 > fit.largest_error(fit.line(points), points)


# --- from a frame rate to a budget ----------------------------------------------------------------------------


def test_a_frame_rate_becomes_flops_and_milliseconds() -> None:
    budget = devices.resolve(config(100)).budget  # 10 ms: int8 has 6 GFLOPs left, fp16 1.75
    assert (budget.flops, budget.latency_ms, budget.fps) == ("6G", 10.0, 100)


def test_int8_counts_only_where_the_run_quantizes() -> None:
    assert devices.resolve(config(100, stages=("prune", "export"))).budget.flops == "1.75G"


def test_what_was_resolved_is_left_alone() -> None:
    once = devices.resolve(config(30))  # 33.3 ms do not come out even
    assert devices.resolve(once) == once
    plain = replace(config(), budget=BudgetConfig(flops="50%"))
    assert devices.resolve(plain) is plain


@pytest.mark.parametrize(
    ("gflops", "fps", "beyond"), [(1.0, 200, True), (6.0, 100, False), (46.0, 20, True)]
)  # the lines were fitted on 2 to 20
def test_an_extrapolation_is_said(gflops: float, fps: float, beyond: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert devices.resolve(config(fps)).budget.flops == f"{gflops:g}G"
    assert ("fitted on" in caplog.text) is beyond
    assert ("intercept" in caplog.text) is (gflops < 2)
    assert "tensorrt/int8" in caplog.text


def test_a_rate_that_no_network_reaches_names_the_highest() -> None:
    message = refusal(config(400))
    assert message.startswith("budget.fps=400: ")
    assert message.endswith("set less than 333")  # fp16 starts at 3 ms


def test_the_budget_is_said_once() -> None:
    assert "budget.flops=50% also sets the budget" in refusal(config(flops="50%"))
    assert "set budget.latency_ms=null" in refusal(config(latency_ms=5.0))
    both = config()
    both.prune.ratio = 0.3
    assert "prune.ratio=0.3 also sets the budget" in refusal(both)


def test_a_device_without_times_names_those_that_have_some() -> None:
    message = refusal(compose([*FREE, "budget.fps=30"]))
    assert message.startswith("budget.fps=30.0: ")
    assert "device=host" in message and all(profile in message for profile in PROFILES)


def test_times_of_a_runtime_that_the_run_does_not_make_are_none() -> None:
    message = refusal(replace(config(), targets=["openvino"]))
    assert message.startswith("targets=['openvino']: ") and "tensorrt" in message


def test_what_pruning_refuses_is_said_of_the_frame_rate() -> None:
    asked = devices.resolve(config(100))
    mistake = UserError("budget.flops", "6e+09", "the model already costs less")
    renamed = "budget.fps=100: is 6G FLOPs on board: the model already costs less"
    with pytest.raises(UserError, match=renamed), devices.named_by_frame_rate(asked):
        raise mistake
    with pytest.raises(UserError, match="^budget.flops=6e"), devices.named_by_frame_rate(Config()):
        raise mistake
    with pytest.raises(UserError, match="^model=net"), devices.named_by_frame_rate(asked):
        raise UserError("model", "net", "cannot be traced")


# --- predictions ----------------------------------------------------------------------------------------------


def test_files_of_the_final_network_are_predicted() -> None:
    rows = [row(8 * 10**9, "tensorrt", "fp16"), row(10**9, None, "fp32"), row(10**9, "tensorrt", "int8")]
    [remark] = devices.remarks(config().device, rows)
    assert (remark.kind, remark.numbers) == ("predicted_latency", {"tensorrt/int8": 5.0})
    assert (
        "5 ms (tensorrt/int8)" in remark.text and "80% of the tensorrt/int8 time is the line's intercept" in remark.text
    )
    assert "not judged" in remark.text


def test_nothing_is_predicted_without_times() -> None:
    rows = [row(10**9, "tensorrt", "int8")]
    assert devices.remarks(DeviceConfig(), rows) == []
    assert devices.remarks(config().device, [row(10**9, "openvino", "int8")]) == []
