"""The roofline plot: GFLOPS that layers achieve against their FLOPs per byte, below the roofs of the machine."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from compress.measurement.roofline import Roofline
from compress.profiling.profile import Layer, Profile
from compress.report.svg import element

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 560, 70, 20, 40, 50
COLOURS = ("#2f6fdf", "#d9662b", "#2c9c69", "#a04bc4", "#b58900", "#d33682")
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #222 } .grid { stroke: #ddd } .ground { fill: #fff }
.roof { stroke: #444; fill: none; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
text { fill: #ddd } .roof { stroke: #bbb } .grid { stroke: #333 } .ground { fill: #16181d } }
"""
Point = tuple[float, float]


def roofline_svg(profiles: Sequence[Profile], roofline: Roofline) -> str:
    """A stand-alone SVG on logarithmic axes. The area of a mark grows with the time of the layer, which its tooltip
    names. Layers without products, and layers fused into others, are not drawn."""
    drawn = [(index, layer) for index, profile in enumerate(profiles) for layer in profile.layers if _is_drawn(layer)]
    xs = [layer.intensity for _, layer in drawn] + [2 * max(roofline.ridge(name) or 1 for name in roofline.peak_gops)]
    ys = [layer.gflops_per_second or 1.0 for _, layer in drawn] + list(roofline.peak_gops.values())
    (x_low, x_high), (y_low, y_high) = _decades(xs), _decades(ys)

    def at(x: float, y: float) -> Point:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts: list[Markup] = [element("rect", class_="ground", width=WIDTH, height=HEIGHT)]
    for power in range(x_low, x_high + 1):
        x, _ = at(10.0**power, 1.0)
        parts += [
            _line((x, TOP), (x, HEIGHT - BOTTOM), "grid"),
            _text(x, HEIGHT - BOTTOM + 18, f"{10.0**power:g}", "middle"),
        ]
    for power in range(y_low, y_high + 1):
        _, y = at(1.0, 10.0**power)
        parts += [_line((LEFT, y), (WIDTH - RIGHT, y), "grid"), _text(LEFT - 8, y + 4, f"{10.0**power:g}", "end")]
    for index, (name, peak) in enumerate(sorted(roofline.peak_gops.items(), key=lambda each: each[1])):
        ridge = peak / roofline.bandwidth_gb_s
        start = max(10.0**x_low, 10.0**y_low / roofline.bandwidth_gb_s)
        corners = [at(start, start * roofline.bandwidth_gb_s), at(ridge, peak), at(10.0**x_high, peak)]
        parts.append(element("polyline", class_="roof", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)))
        x, y = at(10.0**x_high, peak)
        parts.append(_text(x - 4 - 90 * (index % 2), y - 6, f"{name}: {peak:,.0f}", "end"))  # peaks may be close
    longest = max((layer.ms for _, layer in drawn), default=1.0)
    for index, layer in sorted(drawn, key=lambda each: -each[1].ms):
        parts.append(_mark(at(layer.intensity, layer.gflops_per_second or 1.0), layer, index, longest))
    for index, profile in enumerate(profiles):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(element("circle", cx=float(LEFT + 14), cy=float(TOP + 14 + 20 * index), r=6, fill=colour))
        parts.append(_text(LEFT + 26, TOP + 18 + 20 * index, f"{profile.name}, {profile.imgsz} px", "start"))
    title = f"Roofline of this machine, {roofline.threads} threads, memory {roofline.bandwidth_gb_s:.1f} GB/s"
    parts += [
        _text(LEFT, 20, f"{title}. GFLOPS of layers", "start"),
        _text((LEFT + WIDTH) / 2, HEIGHT - 12, "FLOPs per byte read or written (nothing fused)", "middle"),
    ]
    drawing = element(
        "svg", element("title", title), element("style", Markup(STYLE)), *parts,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
    )  # fmt: skip
    return str(drawing) + "\n"


def _is_drawn(layer: Layer) -> bool:
    return bool(layer.gflops_per_second and layer.bytes)


def _mark(place: Point, layer: Layer, index: int, longest: float) -> Markup:
    text = (
        f"{layer.name}: {layer.operators}, {layer.ms:.3f} ms ({layer.time_fraction:.1%} of the time, "
        f"{layer.flops_fraction:.1%} of the FLOPs), {layer.gflops_per_second:.3g} GFLOPS"
    )
    radius = 3 + 15 * math.sqrt(layer.ms / longest)
    return element(
        "circle", element("title", text), cx=place[0], cy=place[1], r=radius,
        fill=COLOURS[index % len(COLOURS)], fill_opacity=0.55,
    )  # fmt: skip


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Powers of ten that enclose positive values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _line(start: Point, end: Point, style: str) -> Markup:
    return element("line", class_=style, x1=start[0], y1=start[1], x2=end[0], y2=end[1])


def _text(x: float, y: float, content: str, anchor: str) -> Markup:
    return element("text", content, x=float(x), y=float(y), text_anchor=anchor)
