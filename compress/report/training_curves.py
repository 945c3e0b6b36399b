"""Curves of losses and learning rates of every training, from `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from compress.report import svg
from compress.report.plots import Chart
from compress.report.run_reader import TrainingPoint

LOSSES = {"loss": "1", "task_loss": "2", "distillation_loss": "3"}  # name of a field: CSS suffix of its colour


def charts(points: Sequence[TrainingPoint]) -> list[Chart]:
    """One chart per training, in the order in which they began."""
    trainings: dict[str, dict[int, TrainingPoint]] = {}
    for point in points:
        trainings.setdefault(point.training, {})[point.step] = point
    return [_chart(name, [steps[step] for step in sorted(steps)]) for name, steps in trainings.items()]


def legend(points: Sequence[TrainingPoint]) -> list[tuple[str, str]]:
    """(name, colour) of the curves that are drawn."""
    drawn = [field for field in LOSSES if any(getattr(point, field) is not None for point in points)]
    names = {"loss": "loss, learning rate"}
    return [(names.get(field, field.replace("_", " ")), LOSSES[field]) for field in drawn]


def _chart(name: str, points: Sequence[TrainingPoint]) -> Chart:
    losses = [svg.Series([getattr(point, field) for point in points], colour) for field, colour in LOSSES.items()]
    rates = svg.Series([point.learning_rate for point in points], "1")
    panels = [("loss", [each for each in losses if each.values]), ("learning rate, against steps", [rates])]
    steps = [float(point.step) for point in points]
    drawing = svg.curves(steps, panels, [_tooltip(point) for point in points], f"Training curves of {name}")
    speeds = [point.images_per_second for point in points if point.images_per_second]
    note = f"{points[-1].step} steps, last loss {points[-1].loss:.4g}"
    return Chart(name, drawing, note + (f", median {median(speeds):.0f} images/s" if speeds else ""))


def _tooltip(point: TrainingPoint) -> str:
    named = [(field.replace("_", " "), getattr(point, field)) for field in (*LOSSES, "learning_rate")]
    return "\n".join([f"step {point.step}", *(f"{name} {value:.4g}" for name, value in named if value is not None)])
