from __future__ import annotations

from dataclasses import replace

import pytest

from compress.budget import NO_DETECTION, chance_level_remark, judge, recommend
from compress.config import BudgetConfig, DeviceConfig
from compress.ledger import Accuracy, Row
from tests.budget.conftest import FULL, check, fp32, int8, ledger, row, timed, verdict


@pytest.mark.parametrize("metric", ["mAP50-95", "mAP50"])
def test_a_detector_that_finds_nothing_is_remarked_by_any_of_its_metrics(metric: str) -> None:
    def remark(value: float) -> object:
        return chance_level_remark(replace(row(), accuracy=Accuracy(metric, value, 100)))

    assert remark(NO_DETECTION / 2) is not None and remark(2 * NO_DETECTION) is None


def test_chance_of_top_5_is_that_of_the_five_most_frequent_classes() -> None:
    remark = chance_level_remark(replace(row(), accuracy=Accuracy("top5", 0.5, 100, (0.4, 0.6), chance=0.5)))
    assert remark is not None and "naming the five most frequent classes gives 0.5000" in remark.text


def test_int8_does_not_pay() -> None:
    result = verdict(ledger(fp32(ms=1.0), int8(ms=1.5)))
    [remark] = [r for r in result.remarks if r.kind == "int8_does_not_pay"]
    assert remark.numbers == {"int8_ms": 1.5, "recommended_ms": 1.0, "ratio": 1.5}
    assert "1.50 ms" in remark.text
    assert "bf16" in remark.text
    assert "openvino/fp32" in remark.text


def test_int8_pays() -> None:
    for ms in (0.5, 1.0):
        assert "int8_does_not_pay" not in {r.kind for r in verdict(ledger(fp32(ms=1.0), int8(ms=ms))).remarks}


def test_what_is_as_fast_as_int8_is_named() -> None:
    result = verdict(ledger(fp32(ms=1.02), int8(ms=1.0), fp32_ms=2.0))
    [remark] = result.remarks
    assert remark.kind == "int8_saves_no_time" and remark.text.startswith("BF16 is already as fast as INT8 on openvino")
    assert remark.numbers["int8_ms"] == 1.0 and remark.numbers["other_ms"] == 1.02
    assert verdict(ledger(fp32(ms=1.1), int8(ms=1.0), fp32_ms=2.0)).remarks == ()


def test_flops_are_not_time() -> None:
    result = verdict(ledger(fp32(ms=2.1), int8(ms=1.95), fp32_ms=2.0))
    [remark] = result.remarks
    assert remark.kind == "flops_are_not_time"
    assert remark.numbers == {"before_ms": 2.0, "after_ms": 1.95}
    assert "50% fewer FLOPs" in remark.text
    assert "2.00 ms before, 1.95 ms after" in remark.text


def test_what_others_disturbed_is_told_and_decides_nothing() -> None:
    busy = {"contended": True, "cpu_wait": 0.4}
    result = verdict(ledger(timed(fp32(ms=0.5), **busy), int8(ms=1.2), fp32_ms=2.0))
    [remark] = result.remarks  # not that INT8 is slower
    assert remark.kind == "timing_contended" and remark.numbers == {"export openvino fp32": 0.4}
    assert "1 of 7 rows" in remark.text and "40%" in remark.text
    assert recommend([timed(fp32(ms=0.5), **busy), int8(ms=3.0)], "openvino").precision == "int8"


def test_of_a_gain_that_noise_hides_nothing_is_said() -> None:
    rows = ledger(timed(fp32(ms=1.7), low=1.0, high=2.2), timed(int8(ms=1.5), low=1.0, high=2.2), fp32_ms=2.0)
    assert verdict(rows).remarks == ()  # neither "FP32 is as fast as INT8" nor "fewer FLOPs did not make it faster"


def test_flops_are_time_here() -> None:
    assert verdict(ledger(fp32(ms=1.2), int8(ms=1.0), fp32_ms=2.0)).remarks == ()


def test_no_remark_on_time_where_no_flops_were_saved() -> None:
    rows = [row("load"), row("load", "openvino", ms=1.0), row("export", "openvino", "int8", ms=1.0)]
    assert verdict(rows).remarks == ()


def test_splits_that_are_not_judged_are_told_of() -> None:
    def seen(value: float) -> Accuracy:
        other = Accuracy("top1", value, 7, (value - 0.1, value + 0.1))
        return Accuracy("top1", 0.9, others={"shifted": other})

    tuned = row("finetune", "openvino", flops=FULL // 2)
    rows = [replace(row(), accuracy=seen(0.6)), tuned, replace(int8(), accuracy=seen(0.4))]
    result = verdict(rows, max_accuracy_drop=0.01)
    [remark] = [remark for remark in result.remarks if remark.kind == "other_split"]
    assert result.met and remark.numbers == {"baseline": 0.6, "openvino/int8": 0.4}
    assert "shifted (7 images" in remark.text and "0.600 [0.500, 0.700]" in remark.text


def test_controls_are_remarked_on_and_never_judged() -> None:
    """Other ways to the same FLOPs, tuned alike: what loses to one of them says so."""
    better, worse = row("smaller_input", flops=FULL // 2, accuracy=0.91), row("random", flops=FULL // 2, accuracy=0.5)
    result = judge(BudgetConfig(flops="50%"), 0.01, ledger(fp32()), {}, DeviceConfig(), [worse, better])
    told = {remark.kind: remark for remark in result.remarks}
    assert result.met
    assert "Pruning wins against the control `random`" in told["control"].text
    assert "does NOT win against the control `smaller input`: 0.9000" in told["pruning_does_not_win"].text
    assert told["pruning_does_not_win"].numbers["smaller_input"] == 0.91


def test_what_is_recommended_for_another_device_is_said() -> None:
    board = DeviceConfig("board", precisions=["int8", "fp32"])
    result = judge(BudgetConfig(size_mb=0.5), 0.01, ledger(fp32(ms=1.0), int8(ms=3.0)), {}, board)
    assert check(result, "budget.size_mb").precision == "int8"
    [remark] = [each for each in result.remarks if each.kind == "recommended_for_device"]
    assert remark.text.startswith("For board: openvino/int8")
    assert not [each for each in result.remarks if each.kind == "int8_does_not_pay"]
    assert "recommended_for_device" not in {each.kind for each in verdict(ledger(fp32(), int8())).remarks}


def rated(metric: str, value: float, ci95: tuple[float, float], chance: float | None = None) -> Row:
    return Row("load", None, "fp32", 16, 1, accuracy=Accuracy(metric, value, 100, ci95, chance=chance))


@pytest.mark.parametrize(
    ("result", "guesses"),
    [
        (rated("top1", 0.30, (0.21, 0.39), 0.25), True),
        (rated("top1", 0.40, (0.31, 0.49), 0.25), False),
        (rated("top1", 0.10, (0.05, 0.15), 0.25), True),
        (rated("mAP50-95", NO_DETECTION / 2, (0.0, 0.02)), True),
        (rated("mAP50-95", 0.2, (0.1, 0.3)), False),
        (Row("load", None, "fp32", 16, 1), False),
    ],
)
def test_a_baseline_that_may_be_guessing_is_remarked_on(result: Row, guesses: bool) -> None:
    assert (chance_level_remark(result) is not None) is guesses


def test_the_remark_states_what_the_baseline_is_compared_with() -> None:
    guessing = chance_level_remark(rated("top1", 0.3, (0.21, 0.39), 0.25))
    assert guessing is not None
    assert guessing.kind == "baseline_knows_nothing" and guessing.numbers == {"baseline": 0.3, "chance": 0.25}
    assert "top1 is 0.3000 on 100 images" in guessing.text and "0.2500 [95 % interval 0.2100, 0.3900]" in guessing.text
    blind = chance_level_remark(rated("mAP50-95", 0.001, (0.0, 0.002)))
    assert blind is not None and blind.numbers == {"baseline": 0.001, "chance": NO_DETECTION}
    assert f"below {NO_DETECTION:g}" in blind.text


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_with_a_single_class_top_1_shows_nothing(chance: float) -> None:
    assert chance_level_remark(rated("top1", chance, (chance, chance), chance)) is None


def test_without_an_interval_the_value_itself_is_compared_with_chance() -> None:
    assert chance_level_remark(replace(row(), accuracy=Accuracy("top1", 0.25, chance=0.25))) is not None
    assert chance_level_remark(replace(row(), accuracy=Accuracy("top1", 0.26, chance=0.25))) is None


def test_timed_in_turns_the_ratio_decides_and_is_named() -> None:
    """The medians say the opposite: the machine was slower when the FP32 file was timed."""
    slow, fast = timed(fp32(ms=3.0), ratio=0.5), timed(int8(ms=2.0), ratio=1.0)
    [remark] = [each for each in verdict(ledger(slow, fast)).remarks if each.kind == "int8_does_not_pay"]
    assert remark.numbers == {"int8_ms": 2.0, "recommended_ms": 3.0, "ratio": 2.0}
    assert "(in turns ×2.00)" in remark.text


def test_heat_is_told() -> None:
    drifting = timed(int8(ms=1.0), drift=0.2, celsius=84.0)
    [remark] = [each for each in verdict(ledger(drifting, fp32_ms=2.0)).remarks if each.kind == "timing_throttled"]
    assert remark.numbers == {"export openvino int8": 0.2}
    assert "as when it is hot" in remark.text and "up to 20% longer" in remark.text and "reached 84 °C" in remark.text
    reported = timed(int8(ms=1.0), drift=0.0, throttled=True)
    [remark] = [each for each in verdict(ledger(reported, fp32_ms=2.0)).remarks if each.kind == "timing_throttled"]
    assert "as the system reports" in remark.text and "°C" not in remark.text
    for cool in ({"drift": 0.05}, {"drift": -0.3, "celsius": 90.0}, {"drift": 0.3, "contended": True, "cpu_wait": 0.4}):
        kinds = {each.kind for each in verdict(ledger(timed(int8(ms=1.0), **cool), fp32_ms=2.0)).remarks}
        assert "timing_throttled" not in kinds


def test_measurements_of_earlier_runs_are_told_with_their_time() -> None:
    before = timed(int8(ms=1.0), reused=True, measured_at="2026-11-27T10:05:00+00:00")
    now = timed(fp32(ms=1.5), measured_at="2026-11-28T10:05:00+00:00")
    [remark] = [each for each in verdict(ledger(before, now)).remarks if each.kind == "measured_before"]
    assert remark.text.startswith("1 of 7 rows were timed on this machine 2026-11-27 10:05: their products are unchan")
    assert "measured_before" not in {each.kind for each in verdict(ledger(now)).remarks}


def test_memory_of_a_microcontroller_is_said_to_be_that_of_tensors() -> None:
    fits = replace(int8(), arena_bytes=1024)
    assert [each.kind for each in verdict(ledger(fits), sram_kb=2).remarks] == ["sram_is_of_tensors"]
    assert verdict(ledger(fits), flash_kb=1000).remarks == ()
