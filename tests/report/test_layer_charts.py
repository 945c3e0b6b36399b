from __future__ import annotations

import math

from compress.report.layer_charts import MOST_BARS, pruned_layers, sensitivity
from compress.report.run_reader import Candidate, LayerTimes, Pruning, Quantization


def test_each_layer_has_its_flops_time_and_channels() -> None:
    record = Pruning({"conv": (64, 48)}, layer_macs={"conv": (3_000_000, 1_500_000), "": (1_000_000, 1_000_000)})
    times = LayerTimes("host", "onnxruntime", "fp32", "measured", {"conv": (2.0, 2.5)})
    flops, milliseconds, channels = pruned_layers(record, times)
    assert "conv: 6 → 3 MFLOPs (−50.0 %), 75 % of the network before" in flops.drawing
    assert "(network): 2 MFLOPs, 25 % of the network before" in flops.drawing and flops.drawing.count("removed") == 1
    assert "conv: 2 → 2.5 ms (+25.0 %)" in milliseconds.drawing and "removed" not in milliseconds.drawing
    assert milliseconds.note.startswith("Measured on host in onnxruntime, fp32.")
    assert "conv: 64 → 48 channels (−25.0 %)" in channels.drawing


def test_older_runs_have_times_of_one_network() -> None:
    channels, times = reversed(
        pruned_layers(Pruning({"conv": (64, 48)}, layer_milliseconds={"a": 0.5, "b": 2.0}), None)
    )
    assert times.drawing.index("b: 2 ms") < times.drawing.index("a: 0.5 ms") and "64 → 48" in channels.drawing
    assert pruned_layers(Pruning(), None) == []


def test_small_layers_of_a_large_network_are_not_drawn() -> None:
    layers = {f"layer{index}": (1_000_000 * index, 500_000 * index) for index in range(MOST_BARS + 2)}
    [chart] = pruned_layers(Pruning(layer_macs=layers), None)
    assert chart.drawing.count('class="hit"') == MOST_BARS and "layer1:" not in chart.drawing
    assert chart.note == "Not drawn: 2 smaller layers, together 2 → 1 MFLOPs."


def test_sensitive_layers_come_first_and_those_in_float_are_marked() -> None:
    chosen = Candidate("ncnn", "mixed", 0.5, 0.01, 2.4, layers_kept=("b",), chosen=True)
    [chart] = sensitivity(Quantization((chosen,), {"a": 0.001, "b": 0.2, "c": math.nan}))
    assert chart.drawing.index("b: 0.2, stays in float") < chart.drawing.index("a: 0.001") and "Orange" in chart.note
    assert chart.drawing.count('class="f-3"') == chart.drawing.count('class="f-1"') == 1
    assert sensitivity(Quantization((chosen,))) == []
