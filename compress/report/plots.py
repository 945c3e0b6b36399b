"""Charts of a run: which ledger values go into which chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from compress.budget.selection import median
from compress.ledger import Provenance, Row
from compress.report import formatting, svg
from compress.report.changes import STAGES, change_from_baseline

# Suffixes of CSS classes.
COLOURS = {"torch": 0, "as given": 0, "onnxruntime": 1, "openvino": 2, "tensorrt": 3, "ncnn": 4, "litert": 6}
SHAPES = {"fp32": "circle", "fp16": "diamond", "int8": "square"}
BITS = {"int8": 8, "fp16": 16}


class Chart(NamedTuple):
    """`drawing` is empty if the ledger has no values for the chart."""

    heading: str
    drawing: Markup
    note: str = ""


def drawn(*charts: Chart) -> list[Chart]:
    """The charts that have values."""
    return [chart for chart in charts if chart.drawing]


def costs(rows: Sequence[Row]) -> list[Chart]:
    """FLOPs and bit operations after each stage."""
    flops = "Of the fused graph as deployed, 1 MAC = 2 FLOPs. Quantization does not change FLOPs."
    bits = "MACs × weight bits × activation bits: the cost that quantization reduces. Not a latency."
    unit, scale = _flops_unit(rows)
    return drawn(
        Chart(unit, waterfall(rows, lambda row: row.flops, unit, scale), flops),
        Chart("Bit operations", waterfall(rows, lambda row: row.bit_operations, "G bit ops"), bits),
    )


def trade_offs(rows: Sequence[Row]) -> list[Chart]:
    """Accuracy against FLOPs, and against latency on each device."""
    latencies = (_accuracy_against_latency(*timed, metric(rows)) for timed in _by_device(rows).items())
    return drawn(_accuracy_against_flops(rows), *latencies)


def latencies_and_sizes(rows: Sequence[Row]) -> list[Chart]:
    """Bars for each target: latency on each device, and file size."""
    latencies = [_latency_chart(rows, *timed) for timed in _by_device(rows).items()]
    return drawn(*latencies[:1], _size_chart(rows), *latencies[1:])


def legend(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(target, colour) of each target in the ledger."""
    return list({row.target_name: _colour(row) for row in rows}.items())


def metric(rows: Sequence[Row]) -> str:
    """Name of the accuracy metric of this ledger."""
    return next((row.accuracy.metric for row in rows if row.accuracy), "accuracy")


def waterfall(rows: Sequence[Row], cost: Callable[[Row], int], unit: str, scale: float = 1e9) -> Markup:
    """A cost in `unit`, which is `scale`, and the accuracy after each stage; empty without rows."""
    steps: list[svg.Bar] = []
    for stage in STAGES:
        of_stage = [row for row in rows if row.stage == stage]
        # If the stage produced graphs for targets only, the first of the lowest precision represents it.
        if row := min(of_stage, key=lambda r: (r.target is not None, BITS.get(r.precision, 32)), default=None):
            value, before = cost(row) / scale, steps[-1].value if steps else None
            text, colour = _step_text(row, value, before, unit), "0" if before is None else "5"
            steps.append(svg.Bar(stage, value, text, colour, previous=before))
    return svg.waterfall(steps, f"{unit} after each stage")


def point(row: Row, colour: str, label: str, name: str, x: float | None = None, tooltip: str = "") -> svg.Point:
    """The accuracy of `row`, which has one, with its interval; at `x`, by default its GFLOPs."""
    score = row.accuracy
    assert score is not None
    low, high = score.ci95 or (None, None)
    hollow, shape = score.obtained is not Provenance.measured, SHAPES.get(row.precision, "circle")
    tooltip = f"{name}: {formatting.accuracy_text(row)}{tooltip}"
    x = row.flops / 1e9 if x is None else x
    return svg.Point(x, score.value, colour, shape, label, tooltip, low, high, hollow)


def _step_text(row: Row, value: float, before: float | None, unit: str) -> str:
    text = f"{value:.4g} {unit}"
    if before and abs(value / before - 1) >= 5e-4:
        text += f"  {formatting.signed(100 * (value / before - 1), 1)} %"
    source = metric([row]) if row.target is None else f"{row.target_name} {row.precision}:"
    return f"{text}\n{source} {formatting.accuracy_text(row)}"


def _accuracy_against_flops(rows: Sequence[Row]) -> Chart:
    scored = [row for row in rows if row.accuracy]
    # Right after pruning the accuracy may be near zero, which would compress the scale of all other points.
    tuned = any(row.stage in ("reconstruct", "finetune") for row in scored)
    omitted = [row for row in scored if tuned and row.stage == "prune"]
    latest = _latest([row for row in scored if row not in omitted])
    heading = f"{formatting.quality(rows).capitalize()} against FLOPs"
    unit, scale = _flops_unit(rows)
    points = [_row_point(row, row.flops / scale) for row in latest]
    path = [(p.x, p.y) for p, row in zip(points, latest, strict=True) if row.target is None]
    chart = svg.scatter(points, path, f"{unit} (2 × MACs)", metric(rows), heading)
    notes = (f"Not drawn: {row.stage} {formatting.accuracy_text(row)}, before fine-tuning" for row in omitted)
    return Chart(heading, chart, "; ".join(notes))


def _accuracy_against_latency(device: str, timed: Sequence[Row], y_label: str) -> Chart:
    """Latencies of one device only: those of different devices are not comparable."""
    points = [_row_point(row, median(row) or 0.0) for row in _latest([row for row in timed if row.accuracy])]
    quality = formatting.quality(timed).capitalize()
    heading, x_label = f"{quality} against latency, {device}", f"median latency, ms ({device})"
    return Chart(heading, svg.scatter(points, [], x_label, y_label, heading))


def _row_point(row: Row, x: float) -> svg.Point:
    name = f"{row.stage}, {row.target_name} {row.precision}"
    return point(row, _colour(row), _label(row), name, x, f" at {x:.4g}")


def _latency_chart(rows: Sequence[Row], device: str, timed: Sequence[Row]) -> Chart:
    def bar(row: Row) -> svg.Bar:
        ratio = formatting.latency_ratio(change_from_baseline(rows, row))
        text = "  ".join(filter(None, (formatting.latency(row), ratio, formatting.inference_precision(row))))
        hollow = bool(row.latency_ms and formatting.provenance(row.latency_ms.obtained))
        return svg.Bar(_label(row), median(row) or 0.0, text, _colour(row), hollow)

    note = "×: against the baseline in the same runtime. Last: the precision that the runtime computed in."
    return Chart(f"Median latency, {device} (ms)", _bars(timed, f"Median latency on {device}", bar), note)


def _size_chart(rows: Sequence[Row]) -> Chart:
    def bar(row: Row) -> svg.Bar:
        return svg.Bar(_label(row), float(row.size_bytes or 0), f"{formatting.mega(row.size_bytes)} MB", _colour(row))

    sized = [row for row in rows if row.size_bytes is not None]
    first = {(row.target, row.stage, row.precision): row for row in reversed(sized)}
    heading = "Size of the files the runtime needs"
    return Chart(heading, _bars([row for row in sized if row in first.values()], heading, bar))


def _bars(rows: Sequence[Row], title: str, bar: Callable[[Row], svg.Bar]) -> Markup:
    groups: dict[str, list[svg.Bar]] = {}
    for row in rows:
        groups.setdefault(row.target_name, []).append(bar(row))
    return svg.bars(list(groups.items()), title)


def _flops_unit(rows: Sequence[Row]) -> tuple[str, float]:
    return formatting.flops_unit(max((row.flops for row in rows), default=0))


def _label(row: Row) -> str:
    return f"{row.stage} {row.precision}"


def _colour(row: Row) -> str:
    """A target has the same colour in all charts."""
    return str(COLOURS.get(row.target_name, 4))


def _latest(rows: Sequence[Row]) -> list[Row]:
    """One row per file: an exported file is measured again after packaging."""
    return list({(row.target, row.precision, row.flops): row for row in rows}.values())


def _by_device(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows with a latency, by device."""
    devices: dict[str, list[Row]] = {}
    for row in rows:
        if median(row) is not None:
            devices.setdefault(formatting.device(row), []).append(row)
    return devices
