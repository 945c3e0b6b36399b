"""SVG charts: scatter plot, curves, horizontal bars, waterfall. Colours are CSS classes of the page, so that one chart
serves light and dark mode. All texts are escaped. A chart without values is empty."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 500  # of the view box; heights below are in the same units
NARROW = 420  # of charts with a bar for each layer, three of which stand side by side
NAME = 24  # characters of a layer's name; the end of a longer one is shown
GLYPH_WIDTH = 6.4  # average at 11.5 px, to place labels

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    """`low` and `high` are the ends of a vertical error bar; a `hollow` mark is a value that was not measured."""

    x: float
    y: float
    colour: str
    shape: str  # circle, diamond, square
    label: str
    tooltip: str
    low: float | None = None
    high: float | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    text: str
    colour: str
    hollow: bool = False
    previous: float | None = None  # the value before: of the bar above in a waterfall
    tooltip: str = ""  # empty: label and text


@dataclass(frozen=True)
class Series:
    """A curve; None where it has no value."""

    values_or_none: Sequence[float | None]
    colour: str

    @property
    def values(self) -> list[float]:
        return [value for value in self.values_or_none if value is not None]

    def pairs(self, xs: Sequence[float]) -> list[tuple[float, float]]:
        return [(x, y) for x, y in zip(xs, self.values_or_none, strict=True) if y is not None]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 × 10^k apart) within [low, high]."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= span / count)
    first = math.ceil(low / step - 1e-9)
    return [(first + i) * step for i in range(int((high - first * step) / step + 1e-9) + 1)]


def scatter(
    points: Sequence[Point], path: Sequence[tuple[float, float]], x_label: str, y_label: str, title: str
) -> Markup:
    """Scatter plot with error bars; a dashed line connects the data coordinates in `path`."""
    if not points:
        return Markup()
    height, left, right, top, bottom = 330, 62, WIDTH - 24, 26, 286
    x_low, x_high = _padded([p.x for p in points])
    values = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    y_low, y_high = _padded(values)
    if max(values) <= 1.0:  # accuracies end there
        y_high = min(y_high, 1.0)

    def px(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (right - left)

    def py(y: float) -> float:
        return bottom - (y - y_low) / (y_high - y_low) * (bottom - top)

    parts = [text(6, 14, y_label, "axis")]
    for tick in ticks(y_low, y_high):
        parts.append(_line(left, py(tick), right, py(tick), "grid"))
        parts.append(text(left - 8, py(tick) + 4, f"{tick:.4g}", "tick", "end"))
    for tick in ticks(x_low, x_high):
        parts.append(_line(px(tick), bottom, px(tick), bottom + 4, "rule"))
        parts.append(text(px(tick), bottom + 18, f"{tick:.4g}", "tick", "middle"))
    parts.append(_line(left, bottom, right, bottom, "rule"))
    parts.append(text((left + right) / 2, height - 8, x_label, "axis", "middle"))
    if len(path) > 1:
        coordinates = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in path)
        parts.append(element("polyline", class_="path", points=coordinates))
    for p in points:
        if p.low is not None and p.high is not None:
            parts.append(_line(px(p.x), py(p.low), px(p.x), py(p.high), f"error s-{p.colour}"))
    parts += [_mark(px(p.x), py(p.y), p) for p in sorted(points, key=lambda p: p.hollow)]
    parts += _labels([(px(p.x), py(p.y), p.label) for p in points], (left, top, right, bottom))
    return drawing(parts, height, title)


def curves(
    xs: Sequence[float], panels: Sequence[tuple[str, Sequence[Series]]], tooltips: Sequence[str], title: str
) -> Markup:
    """Curves over the same increasing `xs`, in panels one above the other, each with its own scale. One tooltip per x
    appears anywhere above it."""
    if not xs or not panels:
        return Markup()
    left, right, panel, gap = 62, WIDTH - 12, 120, 34
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    parts: list[Markup] = []

    def px(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (right - left)

    for number, (label, series) in enumerate(panels):
        top = 24 + number * (panel + gap)
        low, high = _padded([value for each in series for value in each.values])
        parts.append(text(6, top - 10, label, "axis"))
        height = panel / (high - low)
        for tick in ticks(low, high, 4):
            y = top + panel - (tick - low) * height
            parts += [_line(left, y, right, y, "grid"), text(left - 8, y + 4, f"{tick:.3g}", "tick", "end")]
        for each in series:
            points = " ".join(f"{px(x):.1f},{top + panel - (y - low) * height:.1f}" for x, y in each.pairs(xs))
            parts.append(element("polyline", class_=f"curve s-{each.colour}", points=points))
    bottom = len(panels) * (panel + gap) - 10
    for tick in ticks(x_low, x_high):
        parts.append(text(px(tick), bottom + 18, f"{tick:.6g}", "tick", "middle"))
    edges = [px(xs[0]), *(px((a + b) / 2) for a, b in itertools.pairwise(xs)), px(xs[-1]) + 1]
    for (start, end), tooltip in zip(itertools.pairwise(edges), tooltips, strict=True):
        parts.append(rectangle(start, 24, end - start, bottom - 24, "hit", element("title", tooltip)))
    return drawing(parts, bottom + 24, title)


def bars(groups: Sequence[tuple[str, Sequence[Bar]]], title: str) -> Markup:
    """Horizontal bars from zero, in named groups with a common scale."""
    left, row, gap = 118, 22, 30
    end = 10 + GLYPH_WIDTH * max((len(bar.text) for _, group in groups for bar in group), default=0)
    longest = max((bar.value for _, group in groups for bar in group), default=0) or 1.0
    parts, y = [], 4.0
    for name, group in groups:
        parts.append(text(0, y + 13, name, "group"))
        y += 20
        for bar in group:
            length = bar.value / longest * (WIDTH - left - end)
            parts.append(text(left - 8, y + 14, bar.label, "tick", "end"))
            parts.append(_bar(left, y + 2, length, row - 5, bar))
            parts.append(text(left + length + 7, y + 14, bar.text, "value"))
            y += row
        y += gap - row
    return drawing(parts, math.ceil(y), title)


def waterfall(steps: Sequence[Bar], title: str) -> Markup:
    """One bar per stage; the reduction from the previous bar is drawn in grey. A text may have two lines."""
    left, row = 84, 38
    end = 14 + GLYPH_WIDTH * max((len(line) for bar in steps for line in bar.text.split("\n")), default=0)
    longest = max((max(bar.value, bar.previous or 0) for bar in steps), default=0) or 1.0
    parts, scale = [], (WIDTH - left - end) / longest
    for i, bar in enumerate(steps):
        y, length, previous = i * row + 4, bar.value * scale, (bar.previous or 0) * scale
        parts.append(text(left - 10, y + 19, bar.label, "group", "end"))
        if previous > length:
            parts.append(rectangle(left + length, y, previous - length, 28, "removed"))
        parts.append(_bar(left, y, length, 28, bar))
        x = left + max(length, previous) + 9
        first, _, second = bar.text.partition("\n")
        parts.append(text(x, y + (12 if second else 18), first, "value"))
        parts.append(text(x, y + 26, second, "tick"))
    return drawing(parts, len(steps) * row + 4, title)


def reductions(layers: Sequence[Bar], title: str) -> Markup:
    """A narrow bar per layer; what was removed from its previous value is drawn in grey."""
    row, names = 16, [bar.label if len(bar.label) <= NAME else f"…{bar.label[1 - NAME :]}" for bar in layers]
    left = 10 + GLYPH_WIDTH * max(map(len, names), default=0)
    end = 12 + GLYPH_WIDTH * max((len(bar.text) for bar in layers), default=0)
    longest = max((max(bar.value, bar.previous or 0) for bar in layers), default=0) or 1.0
    parts, scale = [], (NARROW - left - end) / longest
    for i, (bar, name) in enumerate(zip(layers, names, strict=True)):
        y, length, previous = i * row + 2, bar.value * scale, (bar.previous or 0) * scale
        parts.append(text(left - 8, y + 10, name, "tick", "end"))
        if previous > length:
            parts.append(rectangle(left, y, previous, row - 4, "removed"))
        parts.append(rectangle(left, y, max(length, 1), row - 4, f"f-{bar.colour}"))
        parts.append(text(left + max(length, previous) + 7, y + 10, bar.text, "value"))
        parts.append(rectangle(0, y - 2, NARROW, row, "hit", _tooltip(bar)))
    return drawing(parts, len(layers) * row + 4, title, NARROW)


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """One element. Names as keyword arguments: `class_` is `class`, `text_anchor` is `text-anchor`."""
    pairs = Markup()
    for name, value in attributes.items():
        shown = f"{value:.1f}" if isinstance(value, float) else value
        pairs += Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), shown)
    return Markup("<{0}{1}>{2}</{0}>").format(tag, pairs, Markup().join(children))


def drawing(parts: Sequence[str], height: int, title: str, width: int = WIDTH) -> Markup:
    """The complete SVG of `width` x `height`; empty without parts."""
    if not parts:
        return Markup()
    label = element("title", title)
    return element("svg", label, *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=title)


def text(x: float, y: float, content: str, style: str, anchor: str = "start") -> Markup:
    return element("text", content, class_=style, x=float(x), y=float(y), text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return element("line", class_=style, x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2))


def rectangle(
    x: float, y: float, width: float, height: float, style: str, *children: str, **attributes: object
) -> Markup:
    size = {"x": float(x), "y": float(y), "width": float(width), "height": float(height)}
    return element("rect", *children, class_=style, **size, **attributes)


def _bar(x: float, y: float, width: float, height: float, bar: Bar) -> Markup:
    style = f"s-{bar.colour} hollow" if bar.hollow else f"f-{bar.colour}"
    return rectangle(x, y, max(width, 1), height, style, _tooltip(bar), rx=2)


def _tooltip(bar: Bar) -> Markup:
    return element("title", bar.tooltip or f"{bar.label}: {bar.text}")


def _mark(x: float, y: float, p: Point) -> Markup:
    style = f"s-{p.colour} ring" if p.hollow else f"f-{p.colour} dot"
    size = 8.0 if p.hollow else 5.5  # a mark below a larger ring stays visible
    tooltip = element("title", p.tooltip)
    if p.shape == "circle":
        return element("circle", tooltip, class_=style, cx=x, cy=y, r=size)
    turn = {"transform": f"rotate(45 {x:.1f} {y:.1f})"} if p.shape == "diamond" else {}
    return rectangle(x - size, y - size, 2 * size, 2 * size, style, tooltip, **turn)


def _labels(marks: Sequence[tuple[float, float, str]], frame: Box) -> list[Markup]:
    """Labels beside their marks; a label that fits nowhere is omitted, its mark still has a tooltip."""
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y, _ in marks]
    labels: list[Markup] = []
    placed: list[tuple[float, float, str]] = []
    for x, y, label in marks:
        if any(label == other and abs(x - a) < 40 and abs(y - b) < 40 for a, b, other in placed):
            continue  # one label for a cluster of marks with the same label
        width = GLYPH_WIDTH * len(label)
        for dx, dy in ((11, 4), (-11 - width, 4), (-width / 2, -13), (-width / 2, 21), (11, -9), (11, 17)):
            box = (x + dx, y + dy - 10, x + dx + width, y + dy + 3)
            inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                placed.append((x, y, label))
                labels.append(text(box[0], y + dy, label, "label"))
                break
    return labels


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.12 or abs(high) * 0.1 or 1.0
    return (max(low - pad, 0.0) if low >= 0 else low - pad), high + pad
