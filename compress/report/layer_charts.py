"""Charts with a bar for each layer: FLOPs, time and channels before and after pruning, and sensitivity to INT8."""

from __future__ import annotations

import math
from collections.abc import Mapping

from compress.report import formatting, svg
from compress.report.plots import Chart, drawn
from compress.report.run_reader import LayerTimes, Pruning, Quantization

MOST_BARS = 60  # of a chart: of more layers, the largest ones
NETWORK = "(network)"  # operators that the network calls itself, outside of its modules

Pairs = Mapping[str, tuple[float, float]]  # before and after, by layer


def pruned_layers(pruning: Pruning, times: LayerTimes | None) -> list[Chart]:
    """FLOPs, time and output channels of each layer before and after pruning, as far as they are known."""
    flops = {layer: (2e-6 * before, 2e-6 * after) for layer, (before, after) in pruning.layer_macs.items()}
    narrowed = dict(sorted(pruning.channels.items(), key=lambda item: item[1][1] - item[1][0])[:MOST_BARS])
    channels = [_bar(layer, *narrowed[layer], "4", "channels") for layer in pruning.channels if layer in narrowed]
    return drawn(
        _before_and_after("MFLOPs of each layer", "FLOPs before and after", flops, "5", "MFLOPs"),
        _times(pruning, times),
        Chart("Output channels of the narrowed layers", svg.reductions(channels, "Channels before and after")),
    )


def _times(pruning: Pruning, times: LayerTimes | None) -> Chart:
    heading, title = "Time of each layer, ms", "Milliseconds before and after"
    if times is not None:
        where = f"{times.obtained.capitalize()} on {times.device} in {times.target}, {times.precision}"
        note = f"{where}. Activations and other operators count for the layers before them."
        return _before_and_after(heading, title, times.milliseconds, "2", "ms", note)
    slowest = sorted(pruning.layer_milliseconds.items(), key=lambda item: -item[1])[:MOST_BARS]
    bars = [svg.Bar(layer, value, f"{value:.3g}", "2", tooltip=f"{layer}: {value:.3g} ms") for layer, value in slowest]
    return Chart(heading, svg.reductions(bars, "Milliseconds"), "Measured or predicted before the last round.")


def sensitivity(quantization: Quantization) -> list[Chart]:
    """Error of the outputs if only one layer is in INT8, largest first; none if the search did not compute it."""
    in_float = {layer for each in quantization.candidates if each.chosen for layer in each.layers_kept}
    errors = {layer: error for layer, error in quantization.sensitivity.items() if math.isfinite(error)}
    largest = sorted(errors.items(), key=lambda item: -item[1])[:MOST_BARS]
    bars = []
    for layer, error in largest:
        kept = layer in in_float
        tooltip = f"{layer}: {error:.3g}{', stays in float' if kept else ''}"
        bars.append(svg.Bar(layer, error, f"{error:.2g}", "3" if kept else "1", tooltip=tooltip))
    note = "Error of the outputs, relative to their variance, if only this layer is in INT8."
    note += " Orange: stays in float in a selected file." if in_float else ""
    return drawn(Chart("Sensitivity of each layer to INT8", svg.reductions(bars, "Sensitivity to INT8"), note))


def _before_and_after(heading: str, title: str, pairs: Pairs, colour: str, unit: str, note: str = "") -> Chart:
    """A chart in the order of the network; its note states what the layers that are not drawn have together."""
    largest = set(sorted(pairs, key=lambda layer: -max(pairs[layer]))[:MOST_BARS])
    total = sum(before for before, _ in pairs.values())
    bars = [_bar(layer, *pair, colour, unit, total) for layer, pair in pairs.items() if layer in largest]
    if others := [pair for layer, pair in pairs.items() if layer not in largest]:
        before, after = (f"{sum(values):.3g}" for values in zip(*others, strict=True))
        note = f"{note} Not drawn: {len(others)} smaller layers, together {before} → {after} {unit}.".strip()
    return Chart(heading, svg.reductions(bars, title), note)


def _bar(layer: str, before: float, after: float, colour: str, unit: str, total: float = 0) -> svg.Bar:
    name, first, last = layer or NETWORK, f"{before:.3g}", f"{after:.3g}"
    text = first if first == last else f"{first} → {last}"
    tooltip = f"{name}: {text} {unit}"
    if before and first != last:
        tooltip += f" ({formatting.signed(100 * (after / before - 1), 1)} %)"
    if total:
        tooltip += f", {100 * before / total:.2g} % of the network before"
    return svg.Bar(name, after, text, colour, previous=before, tooltip=tooltip)
