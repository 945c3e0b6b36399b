"""Which numbers of a ledger go into which chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compress.report import formatting, svg
from compress.report.chain import STAGES, change_from_start, number, part
from compress.report.run import Row

COLOURS = {
    "torch": "0",
    "as given": "0",
    "onnxruntime": "1",
    "openvino": "2",
    "tensorrt": "3",
    "ncnn": "4",
    "litert": "6",
}
SHAPES = {"fp32": "circle", "fp16": "diamond", "int8": "square"}


def colour(row: Row) -> str:
    """Class suffix: a target keeps its colour in every chart of every report."""
    return COLOURS.get(formatting.target_name(row), "4")


def waterfall(rows: Sequence[Row], field: str, unit: str) -> str:
    """`field` after each stage, in 10^9, and the accuracy there. "" where nothing was counted."""
    steps: list[svg.Bar] = []
    for stage in STAGES:
        row = _representative([r for r in rows if r["stage"] == stage and number(r.get(field)) is not None])
        if row is None:
            continue
        value, before = float(row[field]), steps[-1].value if steps else None
        style = "0" if before is None else "5"
        steps.append(svg.Bar(stage, value, _step_text(row, value, before, unit), style, ghost=before))
    return svg.waterfall(steps, f"{unit} after each stage") if steps else ""


def _representative(found: Sequence[Row]) -> Row | None:
    """The torch row of a stage; where the product is already a graph for each target, the first of the narrowest."""
    width = {"int8": 8, "fp16": 16}
    return min(found, key=lambda r: (r.get("target") is not None, width.get(str(r.get("precision")), 32)), default=None)


def _step_text(row: Row, value: float, before: float | None, unit: str) -> str:
    text = f"{value / 1e9:.4g} {unit}"
    if before and abs(value / before - 1) >= 5e-4:
        text += f"  {formatting.signed(100 * (value / before - 1), 1)} %"
    if row.get("target") is None:
        return f"{text}\n{part(row, 'accuracy').get('metric') or 'accuracy'} {formatting.accuracy(row)}"
    return f"{text}\n{formatting.target_name(row)} {row.get('precision')}: {formatting.accuracy(row)}"


def accuracy_against_flops(rows: Sequence[Row]) -> tuple[str, str]:
    """The chart, and a note on what it leaves out."""
    counted = [row for row in rows if number(row.get("flops")) is not None]
    drawn, left_out = _without_untuned(counted)
    drawn = _latest(drawn)
    points = [_point(row, float(row["flops"]) / 1e9) for row in drawn]
    if not points:
        return "", ""
    path = [(p.x, p.y) for p, row in zip(points, drawn, strict=True) if row.get("target") is None]
    chart = svg.scatter(points, path, "GFLOPs (2 × MACs)", metric(rows), "Accuracy against FLOPs")
    notes = (f"Not drawn: {row['stage']} {formatting.accuracy(row)}, before fine-tuning" for row in left_out)
    return chart, "; ".join(notes)


def accuracy_against_latency(rows: Sequence[Row], device: str) -> str:
    """Latencies of one device only: those of another would not share the axis honestly."""
    scored = [row for row in rows if number(part(row, "accuracy").get("value")) is not None]
    timed = _latest([row for row in scored if _timed_on(row, device)])
    points = [_point(row, float(row["latency_ms"]["median"])) for row in timed]
    if not points:
        return ""
    return svg.scatter(
        points, [], f"median latency, ms ({device})", metric(rows), f"Accuracy against latency, {device}"
    )


def devices(rows: Sequence[Row]) -> list[str]:
    found = (part(row, "latency_ms") for row in rows)
    return list(dict.fromkeys(str(t.get("device")) for t in found if number(t.get("median")) is not None))


def latency_bars(rows: Sequence[Row], device: str) -> str:
    """Before and after in each runtime on one device: loaded, tuned, quantized, exported."""
    return _bars(rows, [row for row in rows if _timed_on(row, device)], f"Median latency on {device}", _latency_bar)


def size_bars(rows: Sequence[Row]) -> str:
    sized = [row for row in rows if number(row.get("size_bytes")) is not None]
    once = {(row.get("target"), row["stage"], row.get("precision")): row for row in reversed(sized)}
    return _bars(rows, [row for row in sized if row in once.values()], "Size of the files the runtime needs", _size_bar)


def _bars(rows: Sequence[Row], found: Sequence[Row], title: str, bar: Callable[[Sequence[Row], Row], svg.Bar]) -> str:
    groups = []
    for target in dict.fromkeys(formatting.target_name(row) for row in found):
        groups.append((target, [bar(rows, row) for row in found if formatting.target_name(row) == target]))
    return svg.bars(groups, title) if groups else ""


def _latency_bar(rows: Sequence[Row], row: Row) -> svg.Bar:
    timing, change = row["latency_ms"], formatting.times(change_from_start(rows, row))
    text = "  ".join(filter(None, (f"{formatting.latency(row)} ms", change, formatting.computed_in(row))))
    hollow = timing.get("obtained") != "measured"
    return svg.Bar(_bar_label(row), float(timing["median"]), text, colour(row), hollow)


def _size_bar(rows: Sequence[Row], row: Row) -> svg.Bar:
    value = float(row["size_bytes"])
    return svg.Bar(_bar_label(row), value, f"{formatting.mega(value)} MB", colour(row))


def _bar_label(row: Row) -> str:
    return f"{row['stage']} {row.get('precision') or ''}".strip()


def _point(row: Row, x: float) -> svg.Point:
    found = part(row, "accuracy")
    low, high = formatting.bounds(row) or (None, None)
    tip = f"{row['stage']}, {formatting.target_name(row)} {row.get('precision')}: {formatting.accuracy(row)} at {x:.4g}"
    hollow = found.get("obtained") != "measured"
    shape = SHAPES.get(str(row.get("precision")), "circle")
    label = f"{row['stage']} {row.get('precision') or ''}".strip()
    return svg.Point(x, float(found["value"]), colour(row), shape, label, tip, low, high, hollow)


def _latest(rows: Sequence[Row]) -> list[Row]:
    """A file weighed again after packaging is one point, not two on top of each other."""
    found = {(row.get("target"), row.get("precision"), row.get("flops")): row for row in rows}
    return list(found.values())


def _without_untuned(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """A pruned network before fine-tuning may score near zero and squeeze all else into a line."""
    scored = [row for row in rows if number(part(row, "accuracy").get("value")) is not None]
    if not any(row["stage"] == "finetune" for row in scored):
        return scored, []
    return [r for r in scored if r["stage"] != "prune"], [r for r in scored if r["stage"] == "prune"]


def _timed_on(row: Row, device: str) -> bool:
    timing = part(row, "latency_ms")
    return str(timing.get("device")) == device and number(timing.get("median")) is not None


def metric(rows: Sequence[Row]) -> str:
    """What the accuracies of this ledger are called."""
    return next((str(m) for row in rows if (m := part(row, "accuracy").get("metric"))), "accuracy")
