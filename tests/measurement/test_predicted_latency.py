from __future__ import annotations

import pytest

from compress.config import Config, DeviceConfig, Figure
from compress.errors import UserError
from compress.measurement.predicted_latency import PredictedLatency
from tests.fakes import small_model

PEAKS = {"fp32": Figure(10, "a table"), "fp16": Figure(20, "a table"), "int8": Figure(40, "a table")}
BANDWIDTH = Figure(10, "a table")
EVERY = ["onnxruntime", "openvino", "tensorrt"]


def config(*stages: str, targets: list[str] = EVERY, precisions: tuple[str, ...] = ("int8", "fp16", "fp32")) -> Config:
    device = DeviceConfig("board", precisions=list(precisions), peak_gops=PEAKS, bandwidth_gb_s=BANDWIDTH)
    return Config(stages=list(stages), targets=targets, device=device)


def test_files_are_those_that_the_run_makes_and_the_chip_computes() -> None:
    floats = [("onnxruntime", "fp32"), ("openvino", "fp32"), ("tensorrt", "fp16")]
    assert PredictedLatency(config("prune", "export")).files == floats
    quantized = PredictedLatency(config("prune", "quantize", "export")).files
    assert set(quantized) == {*floats, ("onnxruntime", "int8"), ("openvino", "int8"), ("tensorrt", "int8")}
    assert PredictedLatency(config("prune", precisions=("fp16",))).files == [("tensorrt", "fp16")]
    with pytest.raises(UserError, match="device=board: its chip computes int8, and the run makes no such file"):
        PredictedLatency(config("prune", precisions=("int8",)))


def test_the_fastest_file_counts() -> None:
    predicted = PredictedLatency(config("prune", "quantize"))
    (target, precision), latency = predicted.of(small_model())
    assert (target, precision) in predicted.files and latency.low < latency.ms < latency.high
    alone = [PredictedLatency(config("prune", targets=[name])).of(small_model())[1].ms for name in EVERY]
    assert latency.ms <= min(alone)
    seconds = predicted.layer_seconds(small_model())
    assert 0 < 1000 * sum(seconds.values()) < latency.ms  # starting the inference belongs to no layer


def test_a_missing_figure_is_named() -> None:
    board = config("prune")
    board.device.bandwidth_gb_s = None
    with pytest.raises(UserError, match="device=board: its latency cannot be predicted: .* no memory bandwidth"):
        PredictedLatency(board)


def test_the_key_of_the_cache_has_all_that_predictions_depend_on() -> None:
    keys = [
        PredictedLatency(each).cache_key()
        for each in (config("prune"), config("prune", "quantize"), config("prune", targets=["openvino"]))
    ]
    assert keys[0] == PredictedLatency(config("prune")).cache_key() and keys[0] != keys[1] != keys[2] != keys[0]
    faster = config("prune")
    faster.device.bandwidth_gb_s = Figure(20, "a table")
    assert PredictedLatency(faster).cache_key() != keys[0]
