"""SVG charts as text: scatter, horizontal bars, a waterfall. Colours come from the page's CSS classes, so
one chart serves light and dark. No script, no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 560
CHAR = 6.4  # average glyph width at 11.5 px, for placing labels


@dataclass(frozen=True)
class Point:
    """`low`/`high` are the ends of a vertical error bar; `hollow` marks a number that was not measured."""

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
    ghost: float | None = None  # waterfall: what the bar before reached


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 × 10^k apart) inside [low, high]."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= span / count)
    first = math.ceil(low / step - 1e-9)
    return [(first + i) * step for i in range(int((high - first * step) / step + 1e-9) + 1)]


def scatter(
    points: Sequence[Point], path: Sequence[tuple[float, float]], x_label: str, y_label: str, title: str
) -> str:
    """A trade-off plot; `path` is drawn as a dashed line through it (the order in which things happened)."""
    height, left, right, top, bottom = 330, 62, 24, 26, 44
    x_low, x_high = _padded([p.x for p in points])
    y_values = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    y_low, y_high = _padded(y_values)

    def px(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (WIDTH - left - right)

    def py(y: float) -> float:
        return height - bottom - (y - y_low) / (y_high - y_low) * (height - top - bottom)

    parts = [_text(6, 14, y_label, "axis")]
    for tick in ticks(y_low, y_high):
        parts.append(_line(left, py(tick), WIDTH - right, py(tick), "grid"))
        parts.append(_text(left - 8, py(tick) + 4, f"{tick:.4g}", "tick", "end"))
    for tick in ticks(x_low, x_high):
        parts.append(_line(px(tick), height - bottom, px(tick), height - bottom + 4, "rule"))
        parts.append(_text(px(tick), height - bottom + 18, f"{tick:.4g}", "tick", "middle"))
    parts.append(_line(left, height - bottom, WIDTH - right, height - bottom, "rule"))
    parts.append(_text((left + WIDTH - right) / 2, height - 8, x_label, "axis", "middle"))
    if len(path) > 1:
        line = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in path)
        parts.append(f'<polyline class="path" points="{line}"/>')
    for p in points:
        if p.low is not None and p.high is not None:
            parts.append(_line(px(p.x), py(p.low), px(p.x), py(p.high), f"error s-{p.colour}"))
    parts += [_mark(px(p.x), py(p.y), p) for p in sorted(points, key=lambda p: p.hollow)]
    parts += _labels([(px(p.x), py(p.y), p.label) for p in points], (left, top, WIDTH - right, height - bottom))
    return _svg(parts, height, title)


def bars(groups: Sequence[tuple[str, Sequence[Bar]]], title: str) -> str:
    """Horizontal bars from zero, in named groups that share one scale."""
    left, row, gap, end = 118, 22, 30, 150
    top = max((bar.value for _, group in groups for bar in group), default=0) or 1.0
    parts, y = [], 4.0
    for name, group in groups:
        parts.append(_text(0, y + 13, name, "group"))
        y += 20
        for bar in group:
            length = bar.value / top * (WIDTH - left - end)
            parts.append(_text(left - 8, y + 14, bar.label, "tick", "end"))
            parts.append(_bar(left, y + 2, length, row - 5, bar))
            parts.append(_text(left + length + 7, y + 14, bar.text, "value"))
            y += row
        y += gap - row
    return _svg(parts, math.ceil(y), title)


def waterfall(steps: Sequence[Bar], title: str) -> str:
    """One bar a stage; what a stage took away stays visible as the bar's ghost."""
    left, row = 84, 38
    end = 14 + CHAR * max((len(line) for bar in steps for line in bar.text.split("\n")), default=0)
    top = max((max(bar.value, bar.ghost or 0) for bar in steps), default=0) or 1.0
    parts, scale = [], (WIDTH - left - end) / top
    for i, bar in enumerate(steps):
        y, length = i * row + 4, bar.value * scale
        parts.append(_text(left - 10, y + 19, bar.label, "group", "end"))
        if bar.ghost is not None and bar.ghost > bar.value:
            width = (bar.ghost - bar.value) * scale
            parts.append(f'<rect class="ghost" x="{left + length:.1f}" y="{y}" width="{width:.1f}" height="28"/>')
        parts.append(_bar(left, y, length, 28, bar))
        at = left + max(length, (bar.ghost or 0) * scale) + 9
        first, _, second = bar.text.partition("\n")
        parts.append(_text(at, y + (12 if second else 18), first, "value"))
        parts.append(_text(at, y + 26, second, "tick"))
    return _svg(parts, len(steps) * row + 4, title)


def _svg(parts: Sequence[str], height: int, title: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return head + f"<title>{escape(title)}</title>" + "".join(parts) + "</svg>"


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _bar(x: float, y: float, width: float, height: float, bar: Bar) -> str:
    style = f"s-{bar.colour} hollow" if bar.hollow else f"f-{bar.colour}"
    tip = f"<title>{escape(f'{bar.label}: {bar.text}')}</title>"
    size = f'width="{max(width, 1):.1f}" height="{height:.1f}"'
    return f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" {size} rx="2">{tip}</rect>'


def _mark(x: float, y: float, p: Point) -> str:
    style = f"s-{p.colour} ring" if p.hollow else f"f-{p.colour} dot"
    size = 8.0 if p.hollow else 5.5  # a ring leaves the mark below it visible
    tip = f"<title>{escape(p.tooltip)}</title>"
    if p.shape == "circle":
        return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{size}">{tip}</circle>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if p.shape == "diamond" else ""
    corner = f'x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size}" height="{2 * size}"'
    return f'<rect class="{style}" {corner}{turn}>{tip}</rect>'


def _labels(marks: Sequence[tuple[float, float, str]], frame: tuple[float, float, float, float]) -> list[str]:
    """Labels beside their marks where there is room; a label without room is left to the tooltip."""
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y, _ in marks]
    made: list[str] = []
    placed: list[tuple[float, float, str]] = []
    for x, y, label in marks:
        if any(label == other and abs(x - a) < 40 and abs(y - b) < 40 for a, b, other in placed):
            continue  # the same words beside the same cluster once
        width = CHAR * len(label)
        for dx, dy in ((11, 4), (-11 - width, 4), (-width / 2, -13), (-width / 2, 21), (11, -9), (11, 17)):
            box = (x + dx, y + dy - 10, x + dx + width, y + dy + 3)
            inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                placed.append((x, y, label))
                made.append(_text(box[0], y + dy, label, "label"))
                break
    return made


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.12 or abs(high) * 0.1 or 1.0
    return (max(low - pad, 0.0) if low >= 0 else low - pad), high + pad
