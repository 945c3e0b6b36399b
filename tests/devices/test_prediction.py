"""Latencies predicted from the costs of operators."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from compress.config import DeviceConfig, Figure
from compress.devices import prediction, published_latency
from compress.devices.operators import Operator, published_networks
from compress.devices.prediction import LatencyModel, Prediction, Prior, Timing, Unknown, calibrate

NETWORKS = published_networks()
DEVICE = DeviceConfig(
    name="board",
    peak_gops={"fp32": Figure(8360, "test"), "fp16": Figure(16700, "test"), "int8": Figure(33500, "test")},
    bandwidth_gb_s=Figure(102, "test"),
)
BARE = DeviceConfig(name="board")


def published(profile: str, precision: str, networks: str = "nsmlx") -> list[Timing]:
    rows = prediction.published(profile)
    return [row for row in rows if row.precision == precision and row.network[-1] in networks]


def predicted(model: LatencyModel, network: str, precision: str = "fp16", runtime: str = "tensorrt") -> Prediction:
    result = model.predict(NETWORKS[network], runtime, precision)
    assert isinstance(result, Prediction)
    return result


def width(result: Prediction) -> float:
    return math.log(result.high / result.low)


def test_published_latencies_have_the_operators_of_their_networks() -> None:
    timings = prediction.published("jetson_orin_nano")
    assert len(timings) == len(published_latency.rows()["jetson_orin_nano"])
    assert timings[0] == Timing("yolo26n", NETWORKS["yolo26n"], "tensorrt", "fp32", 7.53)
    assert prediction.published("host") == []


def test_the_time_of_an_operator_is_the_longer_of_arithmetic_and_traffic() -> None:
    """10^9 MACs at 50 % of 100 GOPS are 40 ms; 10^7 values of 4 bytes at 50 % of 1 GB/s are 80 ms."""
    device = replace(DEVICE, peak_gops={"fp32": Figure(100, "test")}, bandwidth_gb_s=Figure(1, "test"))
    model = calibrate(device, [], Prior(0.5, 0.5, {"openvino": 10.0}))
    arithmetic, traffic = Operator(10**9, 10**6, 10**6, 8, False), Operator(10**6, 10**7, 0, 8, False)
    result = model.predict([arithmetic, traffic], "openvino", "fp32")
    assert isinstance(result, Prediction)
    assert result.ms == pytest.approx(40 + 80 + 0.01 * (2 + prediction.STARTUP))


def test_int8_moves_a_quarter_of_the_bytes_of_fp32() -> None:
    model = calibrate(DEVICE, [], Prior(0.5, 0.5, {"openvino": 1e-9}))
    copy = [Operator(0, 10**9, 0, 0, False)]
    ms = {precision: model.predict(copy, "openvino", precision) for precision in ("fp32", "fp16", "int8")}
    sizes = [result.ms for result in ms.values() if isinstance(result, Prediction)]
    assert sizes == pytest.approx([4 / 51 * 1e3, 2 / 51 * 1e3, 1 / 51 * 1e3])


def test_only_some_runtimes_fuse_a_silu() -> None:
    operators = [Operator(10**6, 10**6, 0, 8, False), Operator(0, 10**9, 0, 0, True)]
    model = calibrate(DEVICE, [], Prior(0.5, 0.5, {"": 10.0}))
    fused, separate = (model.predict(operators, runtime, "fp32") for runtime in ("tensorrt", "onnxruntime"))
    assert isinstance(fused, Prediction) and isinstance(separate, Prediction)
    assert separate.ms > fused.ms + 50


def test_matrix_multiplications_with_few_rows_are_less_efficient_in_onnxruntime() -> None:
    model = calibrate(DEVICE, [], Prior(0.5, 0.5, {"": 1e-9}))
    few, many = ([Operator(10**9, 1, 1, rows, False)] for rows in (16, 10**6))
    for runtime, ratio in (("onnxruntime", 2), ("tensorrt", 1)):
        slow, fast = (model.predict(each, runtime, "fp32") for each in (few, many))
        assert isinstance(slow, Prediction) and isinstance(fast, Prediction)
        assert slow.ms / fast.ms == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_two_networks_predict_the_others(precision: str) -> None:
    model = calibrate(DEVICE, published("jetson_orin_nano", precision, "nx"))
    for timing in published("jetson_orin_nano", precision, "sml"):
        result = predicted(model, timing.network, precision)
        assert result.ms == pytest.approx(timing.ms, rel=0.06)
        assert result.low < timing.ms < result.high


def test_a_profile_alone_predicts_within_its_interval() -> None:
    model = calibrate(DEVICE, [])
    for timing in published("jetson_orin_nano", "fp16"):
        result = predicted(model, timing.network)
        assert timing.ms / 1.6 < result.ms < timing.ms * 1.6
        assert result.low < timing.ms < result.high
        assert result.basis == "the profile of board alone; no latency on it"


def test_each_latency_narrows_the_interval() -> None:
    timings = published("jetson_orin_nano", "fp16")
    widths = [width(predicted(calibrate(DEVICE, timings[:count]), "yolo26m")) for count in range(6)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 3 * widths[-1]


def test_latencies_in_one_precision_improve_the_prediction_in_another() -> None:
    none, other = calibrate(DEVICE, []), calibrate(DEVICE, published("jetson_orin_nano", "fp16"))
    for timing in published("jetson_orin_nano", "int8"):
        before, after = (predicted(model, timing.network, "int8") for model in (none, other))
        assert abs(after.ms / timing.ms - 1) < 0.15
        assert width(after) < width(before)
    assert after.basis == "the profile of board and its latencies in tensorrt FP16; none in tensorrt INT8"


def test_one_wrong_latency_changes_little() -> None:
    timings = published("jetson_orin_nano", "fp16")
    wrong = [replace(timing, ms=2 * timing.ms) if timing.network == "yolo26m" else timing for timing in timings]
    good, bad = (predicted(calibrate(DEVICE, each), "yolo26m") for each in (timings, wrong))
    assert bad.ms == pytest.approx(good.ms, rel=0.05)


def test_the_basis_names_the_networks() -> None:
    model = calibrate(DEVICE, published("jetson_orin_nano", "fp16", "nx"))
    assert predicted(model, "yolo26s").basis == "2 latencies of yolo26n, yolo26x in tensorrt FP16 on board"
    model = calibrate(DEVICE, published("jetson_orin_nano", "fp16", "n"))
    assert predicted(model, "yolo26s").basis == "one latency of yolo26n in tensorrt FP16 on board"


def test_without_a_figure_nothing_is_known() -> None:
    assert calibrate(BARE, []).predict(NETWORKS["yolo26n"], "tensorrt", "fp16") == Unknown(
        "no latency in tensorrt FP16 on board, and no FP16 peak in its profile"
    )
    device = replace(BARE, peak_gops={"fp16": Figure(100, "test")})
    assert calibrate(device, []).predict(NETWORKS["yolo26n"], "tensorrt", "fp16") == Unknown(
        "no latency in tensorrt FP16 on board, and no memory bandwidth in its profile"
    )


def test_latencies_stand_in_for_missing_figures_of_their_precision_only() -> None:
    model = calibrate(BARE, published("jetson_orin_nano", "fp16", "nsx"))
    for timing in published("jetson_orin_nano", "fp16", "ml"):
        assert predicted(model, timing.network).ms == pytest.approx(timing.ms, rel=0.1)
    assert isinstance(model.predict(NETWORKS["yolo26n"], "tensorrt", "int8"), Unknown)
    one = predicted(calibrate(BARE, published("jetson_orin_nano", "fp16", "n")), "yolo26x")
    assert width(one) > 2 * width(predicted(model, "yolo26x"))


def test_fp16_on_a_chip_without_it_runs_in_fp32() -> None:
    model = calibrate(replace(DEVICE, peak_gops={"fp32": Figure(8360, "test")}), [])
    assert predicted(model, "yolo26n", "fp16") == predicted(model, "yolo26n", "fp32")
    assert isinstance(model.predict(NETWORKS["yolo26n"], "tensorrt", "int8"), Unknown)


def test_the_pooled_prior_is_the_geometric_mean() -> None:
    priors = [Prior(0.4, 0.5, {"tensorrt": 5.0}), Prior(0.4, 0.8, {"tensorrt": 20.0})]
    operators = [Operator(10**9, 10**6, 10**6, 8, False), Operator(0, 10**7, 0, 0, False)]
    models = []
    for prior in priors:
        exact = calibrate(DEVICE, [], prior).predict(operators, "tensorrt", "fp16")
        assert isinstance(exact, Prediction)
        models.append(calibrate(DEVICE, [Timing("a", operators, "tensorrt", "fp16", exact.ms)], prior))
    pooled = prediction.pooled(models)
    assert (pooled.arithmetic, pooled.bandwidth) == pytest.approx((0.4, math.sqrt(0.4)), rel=1e-3)
    assert pooled.overhead_us == pytest.approx({"tensorrt": 10.0}, rel=1e-3)
    assert np.exp(pooled.mean("ncnn")[2]) == pytest.approx(10.0, rel=1e-3)


def test_predictions_need_no_torch() -> None:
    code = "import sys; import compress.devices.prediction; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_microbenchmark_corrects_the_roofline_of_its_runtime_and_precision() -> None:
    """On a device whose depthwise convolutions take four times as long as by the roofline."""
    exact = calibrate(DEVICE, [], Prior(0.5, 0.5, {"openvino": 10.0}))

    def operator(kind: str, side: int) -> Operator:
        values = 64 * side**2
        return Operator(values * 9, 2 * values, 640, 1, False, kind, values, 1, 64, 9)

    def ms(operators: list[Operator]) -> float:
        seconds = exact.operator_seconds(operators, "openvino", "fp32")
        assert isinstance(seconds, np.ndarray)
        return float(1e3 * sum(t * (4 if each.kind == "DepthwiseConv" else 1) for t, each in zip(seconds, operators)))

    small = [[operator(kind, side)] * 20 for side in range(8, 80, 4) for kind in ("Conv", "DepthwiseConv")]
    timings = [Timing(prediction.MICROBENCHMARK, each, "openvino", "fp32", ms(each)) for each in small]
    model = calibrate(DEVICE, timings)
    network = [operator("Conv", 30), operator("DepthwiseConv", 50)] * 10
    result = model.predict(network, "openvino", "fp32")
    assert isinstance(result, Prediction) and result.ms == pytest.approx(ms(network), rel=0.1)
    assert result.basis == "a microbenchmark of 36 small networks in openvino FP32 on board"
    seconds = model.operator_seconds(network, "openvino", "fp32")
    assert isinstance(seconds, np.ndarray) and 1e3 * seconds.sum() == pytest.approx(result.ms, rel=0.2)
    assert set(model.corrections) == {("openvino", "fp32")}
