from __future__ import annotations

import xml.dom.minidom
from dataclasses import replace
from typing import Any

import pytest

from compress.report.svg import Bar, Point, Series, bars, curves, reductions, scatter, ticks, waterfall


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.46, 0.5) == pytest.approx([0.46, 0.47, 0.48, 0.49, 0.5])
    assert ticks(3.0, 3.0) == [3.0]


def point(x: float, y: float, label: str = "", **fields: Any) -> Point:
    return replace(Point(x, y, colour="1", shape="circle", label=label, tooltip=label), **fields)


def test_points_lie_on_the_axes_as_their_values_do() -> None:
    chart = scatter([point(1, 0.2), point(3, 0.4), point(2, 0.3)], [(1, 0.2), (3, 0.4)], "x", "y", "title")
    marks = xml.dom.minidom.parseString(chart).getElementsByTagName("circle")
    x, y = ([float(mark.getAttribute(axis)) for mark in marks] for axis in ("cx", "cy"))
    assert x[0] < x[2] < x[1] and y[0] > y[2] > y[1]
    assert x[2] == pytest.approx((x[0] + x[1]) / 2, abs=0.1)
    assert f'points="{x[0]:.1f},{y[0]:.1f} {x[1]:.1f},{y[1]:.1f}"' in chart


def test_a_value_that_was_not_measured_is_hollow_and_an_interval_is_a_bar() -> None:
    chart = scatter([point(1, 0.2, low=0.1, high=0.3), point(2, 0.3, hollow=True, shape="square")], [], "x", "y", "")
    assert chart.count('class="s-1 ring"') == 1 and chart.count('class="error s-1"') == 1


def test_labels_never_overlap() -> None:
    crowded = [point(1 + i / 1000, 0.5, f"label number {i}") for i in range(30)]
    chart = scatter([*crowded, point(2, 0.9)], [], "x", "y", "")
    drawn = chart.count('class="label"')
    assert 1 <= drawn < 10 and chart.count("<circle") == 31, "every point is drawn"


def test_bars_have_a_common_scale() -> None:
    chart = bars([("a", [Bar("x", 2.0, "2 ms", "1")]), ("b", [Bar("y", 1.0, "1 ms", "2", hollow=True)])], "title")
    first, second = xml.dom.minidom.parseString(chart).getElementsByTagName("rect")
    assert float(first.getAttribute("width")) == 2 * float(second.getAttribute("width"))
    assert second.getAttribute("class") == "s-2 hollow"


def test_a_waterfall_draws_what_a_stage_removed() -> None:
    steps = [Bar("load", 4.0, "4", "0"), Bar("prune", 1.0, "1\n<b>", "5", previous=4.0)]
    chart = waterfall(steps, "title")
    full, removed, kept = xml.dom.minidom.parseString(chart).getElementsByTagName("rect")
    assert removed.getAttribute("class") == "removed" and "&lt;b&gt;" in chart
    widths = [float(each.getAttribute("width")) for each in (removed, kept, full)]
    assert widths[0] + widths[1] == pytest.approx(widths[2], abs=0.2)


def test_curves_share_the_horizontal_axis_and_have_scales_of_their_own() -> None:
    panels = [("loss", [Series([4.0, None, 2.0], "1")]), ("rate", [Series([0.1, 0.2, 0.3], "2")])]
    chart = curves([1, 2, 4], panels, ["one", "<two>", "four"], "title")
    lines = xml.dom.minidom.parseString(chart).getElementsByTagName("polyline")
    loss, rate = ([tuple(map(float, p.split(","))) for p in e.getAttribute("points").split()] for e in lines)
    assert [x for x, _ in loss] == [rate[0][0], rate[2][0]] and loss[0][1] < loss[1][1] < rate[2][1] < rate[0][1]
    assert chart.count('class="hit"') == 3 and "&lt;two&gt;" in chart
    assert curves([], panels, [], "title") == ""


def test_a_curve_of_one_point_is_drawn() -> None:
    chart = curves([5], [("loss", [Series([1.0], "1")])], ["five"], "title")
    assert xml.dom.minidom.parseString(chart).getElementsByTagName("polyline").length == 1


def test_a_reduction_is_drawn_over_what_was_there() -> None:
    chart = reductions([Bar("a" * 40, 1.0, "4 → 1", "5", previous=4.0)], "title")
    before, after, row = xml.dom.minidom.parseString(chart).getElementsByTagName("rect")
    assert row.getAttribute("class") == "hit"
    assert float(before.getAttribute("width")) == 4 * float(after.getAttribute("width"))
    assert f"{'a' * 40}: 4 → 1" in chart and f">…{'a' * 23}<" in chart


def test_the_axis_of_accuracies_ends_at_one() -> None:
    equal = scatter([point(1, 1.0), point(2, 1.0)], [], "x", "y", "")
    assert ">1</text>" in equal and ">1.05</text>" not in equal
    assert ">1.2</text>" in scatter([point(1, 1.1), point(2, 1.1)], [], "x", "y", "")
