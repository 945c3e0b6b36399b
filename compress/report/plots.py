"""Charts of a run: which ledger values go into which chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from compress.report import formatting, svg
from compress.report.changes import STAGES, change_from_baseline
from compress.report.run_reader import Row, number, part

COLOURS = {  # suffix of a CSS class
    "torch": "0",
    "as given": "0",
    "onnxruntime": "1",
    "openvino": "2",
    "tensorrt": "3",
    "ncnn": "4",
    "litert": "6",
}
SHAPES = {"fp32": "circle", "fp16": "diamond", "int8": "square"}


class Chart(NamedTuple):
    """`drawing` is empty if the ledger has no values for the chart."""

    heading: str
    drawing: Markup
    note: str = ""


def costs(rows: Sequence[Row]) -> list[Chart]:
    """FLOPs and bit operations after each stage."""
    flops = "Of the fused graph as deployed, 1 MAC = 2 FLOPs. Quantization does not change FLOPs."
    bits = "MACs × weight bits × activation bits: the cost that quantization reduces. Not a latency."
    return _drawn(
        Chart("GFLOPs", waterfall(rows, "flops", "GFLOPs"), flops),
        Chart("Bit operations", waterfall(rows, "bit_operations", "G bit ops"), bits),
    )


def trade_offs(rows: Sequence[Row]) -> list[Chart]:
    """Accuracy against FLOPs, and against latency on each device."""
    devices = (_accuracy_against_latency(rows, device) for device in _devices(rows))
    return _drawn(_accuracy_against_flops(rows), *devices)


def latencies_and_sizes(rows: Sequence[Row]) -> list[Chart]:
    """Bars for each target: latency on each device, and file size."""
    latencies = [_latency_chart(rows, device) for device in _devices(rows)]
    return _drawn(*latencies[:1], _size_chart(rows), *latencies[1:])


def legend(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(target, colour) of each target in the ledger."""
    return list({formatting.target_name(row): _colour(row) for row in rows}.items())


def metric(rows: Sequence[Row]) -> str:
    """Name of the accuracy metric of this ledger."""
    return next((str(m) for row in rows if (m := part(row, "accuracy").get("metric"))), "accuracy")


def waterfall(rows: Sequence[Row], field: str, unit: str) -> Markup:
    """`field` in units of 10^9 and the accuracy after each stage; empty if no row has the field."""
    steps: list[svg.Bar] = []
    for stage in STAGES:
        row = _representative([r for r in rows if r["stage"] == stage and number(r.get(field)) is not None])
        if row is None:
            continue
        value, before = float(row[field]), steps[-1].value if steps else None
        colour = "0" if before is None else "5"
        steps.append(svg.Bar(stage, value, _step_text(row, value, before, unit), colour, previous=before))
    return svg.waterfall(steps, f"{unit} after each stage") if steps else Markup()


def point(row: Row, x: float, colour: str, label: str, tooltip: str, shape: str = "circle") -> svg.Point:
    """The accuracy of `row` with its interval, at `x`."""
    low, high = formatting.accuracy_interval(row) or (None, None)
    score = part(row, "accuracy")
    hollow = score.get("obtained") != "measured"
    return svg.Point(x, float(score["value"]), colour, shape, label, tooltip, low, high, hollow)


def _drawn(*charts: Chart) -> list[Chart]:
    return [chart for chart in charts if chart.drawing]


def _representative(rows: Sequence[Row]) -> Row | None:
    """The torch row of a stage; if the stage produced graphs for targets only, the first of the lowest precision."""
    bits = {"int8": 8, "fp16": 16}
    return min(rows, key=lambda r: (r.get("target") is not None, bits.get(str(r.get("precision")), 32)), default=None)


def _step_text(row: Row, value: float, before: float | None, unit: str) -> str:
    text = f"{value / 1e9:.4g} {unit}"
    if before and abs(value / before - 1) >= 5e-4:
        text += f"  {formatting.signed(100 * (value / before - 1), 1)} %"
    if row.get("target") is None:
        return f"{text}\n{part(row, 'accuracy').get('metric') or 'accuracy'} {formatting.accuracy(row)}"
    return f"{text}\n{formatting.target_name(row)} {row.get('precision')}: {formatting.accuracy(row)}"


def _accuracy_against_flops(rows: Sequence[Row]) -> Chart:
    scored = [row for row in _scored(rows) if number(row.get("flops")) is not None]
    omitted: list[Row] = []
    if any(row["stage"] == "finetune" for row in scored):
        # Before fine-tuning the accuracy may be near zero, which would compress the scale of all other points.
        omitted = [row for row in scored if row["stage"] == "prune"]
    drawn = _latest([row for row in scored if row not in omitted])
    heading = "Accuracy against FLOPs"
    if not drawn:
        return Chart(heading, Markup())
    points = [_row_point(row, float(row["flops"]) / 1e9) for row in drawn]
    path = [(p.x, p.y) for p, row in zip(points, drawn, strict=True) if row.get("target") is None]
    chart = svg.scatter(points, path, "GFLOPs (2 × MACs)", metric(rows), heading)
    notes = (f"Not drawn: {row['stage']} {formatting.accuracy(row)}, before fine-tuning" for row in omitted)
    return Chart(heading, chart, "; ".join(notes))


def _accuracy_against_latency(rows: Sequence[Row], device: str) -> Chart:
    """Latencies of one device only: those of different devices are not comparable."""
    timed = _latest([row for row in _scored(rows) if _timed_on(row, device)])
    points = [_row_point(row, float(row["latency_ms"]["median"])) for row in timed]
    heading = f"Accuracy against latency, {device}"
    axis = f"median latency, ms ({device})"
    return Chart(heading, svg.scatter(points, [], axis, metric(rows), heading) if points else Markup())


def _row_point(row: Row, x: float) -> svg.Point:
    text = f"{row['stage']}, {formatting.target_name(row)} {row.get('precision')}: {formatting.accuracy(row)}"
    shape = SHAPES.get(str(row.get("precision")), "circle")
    return point(row, x, _colour(row), _label(row), f"{text} at {x:.4g}", shape)


def _latency_chart(rows: Sequence[Row], device: str) -> Chart:
    def bar(row: Row) -> svg.Bar:
        ratio = formatting.latency_ratio(change_from_baseline(rows, row))
        text = "  ".join(filter(None, (f"{formatting.latency(row)} ms", ratio, formatting.inference_precision(row))))
        timing = row["latency_ms"]
        return svg.Bar(_label(row), float(timing["median"]), text, _colour(row), timing.get("obtained") != "measured")

    note = "×: against the baseline in the same runtime. Last: the precision that the runtime computed in."
    drawing = _bars([row for row in rows if _timed_on(row, device)], f"Median latency on {device}", bar)
    return Chart(f"Median latency, {device} (ms)", drawing, note)


def _size_chart(rows: Sequence[Row]) -> Chart:
    def bar(row: Row) -> svg.Bar:
        return svg.Bar(_label(row), float(row["size_bytes"]), f"{formatting.mega(row['size_bytes'])} MB", _colour(row))

    sized = [row for row in rows if number(row.get("size_bytes")) is not None]
    first = {(row.get("target"), row["stage"], row.get("precision")): row for row in reversed(sized)}
    heading = "Size of the files the runtime needs"
    return Chart(heading, _bars([row for row in sized if row in first.values()], heading, bar))


def _bars(rows: Sequence[Row], title: str, bar: Callable[[Row], svg.Bar]) -> Markup:
    groups: dict[str, list[svg.Bar]] = {}
    for row in rows:
        groups.setdefault(formatting.target_name(row), []).append(bar(row))
    return svg.bars(list(groups.items()), title) if groups else Markup()


def _label(row: Row) -> str:
    return f"{row['stage']} {row.get('precision') or ''}".strip()


def _colour(row: Row) -> str:
    """A target has the same colour in all charts."""
    return COLOURS.get(formatting.target_name(row), "4")


def _latest(rows: Sequence[Row]) -> list[Row]:
    """One row per file: an exported file is measured again after packaging."""
    return list({(row.get("target"), row.get("precision"), number(row.get("flops"))): row for row in rows}.values())


def _scored(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if number(part(row, "accuracy").get("value")) is not None]


def _devices(rows: Sequence[Row]) -> list[str]:
    timings = (part(row, "latency_ms") for row in rows)
    return list(dict.fromkeys(str(t.get("device")) for t in timings if number(t.get("median")) is not None))


def _timed_on(row: Row, device: str) -> bool:
    timing = part(row, "latency_ms")
    return str(timing.get("device")) == device and number(timing.get("median")) is not None
