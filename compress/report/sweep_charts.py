"""Charts of a sweep: accuracy against FLOPs and, for each runtime, against latency and file size. A dashed line
connects the points that no other one dominates (the Pareto front)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import NamedTuple

from compress.budget.selection import baseline, median
from compress.ledger import Provenance, Row
from compress.report import formatting, plots, svg
from compress.report.plots import Chart
from compress.report.sweep_choice import SEED, Choice, File, by_setting, files
from compress.report.sweep_reader import SweepPoint

BASELINE, MET, CHOSEN, MISSED, CONTROL = "0", "1", "2", "3", "4"  # suffixes of CSS classes of colours
LEGEND = (
    ("the point to choose", CHOSEN), ("budget met", MET), ("missed or undetermined", MISSED), ("baseline", BASELINE),
    ("control", CONTROL),
)  # fmt: skip

Cost = Callable[[File], float | None]


class Charts(NamedTuple):
    """`main`: FLOPs and the chosen runtime; `others`: the other runtimes. `legend`: names and colours of the marks."""

    main: list[Chart]
    others: list[Chart]
    legend: list[tuple[str, str]]


def charts(points: Sequence[SweepPoint], keys: Sequence[str], choice: Choice | None) -> Charts:
    """Charts of the finished points.

    Args:
        keys: in which the points differ. Points that differ only in their seed are drawn as one mark.
    """
    groups = by_setting([point for point in points if point.run and point.run.verdict], keys)
    networks = [[File(point, point.last_row) for point in group if point.last_row] for group in groups]
    delivered = [[file for point in group for file in files(point) if file.row.target] for group in groups]
    targets = list(dict.fromkeys(file.row.target_name for group in delivered for file in group))
    first = choice.file.row.target_name if choice else next(iter(targets), "")
    drawing = _Drawing(points, keys, choice)
    main, others = drawing.of_networks(networks), list[Chart]()
    for target in targets:
        of_target = [[file for file in group if file.row.target == target] for group in delivered]
        (main if target == first else others).extend(drawing.of_target(target, of_target))
    return Charts(main, others, [each for each in LEGEND if each[1] in drawing.colours])


class _Drawing:
    def __init__(self, points: Sequence[SweepPoint], keys: Sequence[str], choice: Choice | None) -> None:
        self.keys, self.chosen = [key for key in keys if key != SEED] or list(keys), choice and choice.file.point
        self.runs = [point.run for point in points if point.run and point.run.rows]
        self.colours: set[str] = set()

    def of_networks(self, groups: Sequence[Sequence[File]]) -> list[Chart]:
        unit, scale = formatting.flops_unit(max((file.point.flops for group in groups for file in group), default=0))
        cost = partial(_flops, scale)
        further = [self._baseline(None, cost)]
        for run in self.runs:
            for row in run.controls:
                if row.accuracy:
                    name = f"{row.stage.replace('_', ' ')}, control of {run.folder.name}"
                    further.append(plots.point(row, CONTROL, row.stage.replace("_", " "), name, row.flops / scale))
        quality = formatting.quality([file.row for group in groups for file in group]).capitalize()
        return self._chart(f"{quality} against FLOPs", f"{unit} (2 × MACs)", groups, cost, further)

    def of_target(self, target: str, groups: Sequence[Sequence[File]]) -> list[Chart]:
        """Latency measured on each device, latency predicted for the deployment device, and size."""
        everything = [file for group in groups for file in group]
        devices = dict.fromkeys(formatting.device(file.row) for file in everything if median(file.row) is not None)
        drawn = []
        for device in devices:
            cost, x = partial(_ms, device), f"median latency, ms ({device})"
            heading = f"{target}: measured latency, {device}"
            drawn += self._chart(heading, x, groups, cost, [self._baseline(target, cost)])
        device, x = next((run.device for run in self.runs), ""), "predicted latency, ms"
        heading = f"{target}: latency predicted for {device}"
        drawn += self._chart(heading, x, groups, lambda file: file.predicted_ms, [])
        x = "MB of all files that the runtime needs"
        return drawn + self._chart(f"{target}: size", x, groups, _megabytes, [self._baseline(target, _megabytes)])

    def _chart(
        self, heading: str, x: str, groups: Sequence[Sequence[File]], cost: Cost, further: Sequence[svg.Point | None]
    ) -> list[Chart]:
        marks = [mark for mark in (self._mark(group, cost) for group in groups) if mark]
        if not marks:
            return []
        marks.sort(key=lambda mark: mark.colour == CHOSEN)  # drawn last, over points at the same place
        others = [point for point in further if point]
        self.colours |= {mark.colour for mark in (*others, *marks)}
        y = plots.metric([file.row for group in groups for file in group])
        path = front([(mark.x, mark.y) for mark in marks])
        return [Chart(heading, svg.scatter([*others, *marks], path, x, y, heading))]

    def _mark(self, group: Sequence[File], cost: Cost) -> svg.Point | None:
        """One mark for points that differ only in their seed: means, and the range of the accuracies. One point has the
        interval of its accuracy instead."""
        known = [(file, x, file.accuracy) for file in group if (x := cost(file)) is not None and file.accuracy]
        if not known:
            return None
        scores = [accuracy for _, _, accuracy in known if accuracy]
        values, points = [score.value for score in scores], [file.point for file, _, _ in known]
        low, high = (min(values), max(values)) if len(values) > 1 else scores[0].ci95 or (None, None)
        x = fmean(each for _, each, _ in known)
        row, colour = known[0][0].row, MET if all(point.met for point in points) else MISSED
        if any(point is self.chosen for point in points):
            colour = CHOSEN
        label = ", ".join(str(points[0].config.get(key)) for key in self.keys) or points[0].label
        text = f" at {x:.4g}, {row.target_name} {row.precision}"
        if len(values) > 1:
            text = f"mean {fmean(values):.4f}, {min(values):.4f} to {max(values):.4f}{text}"
        else:
            text = f"{scores[0].value:.4f}{text}"
        hollow = any(score.obtained is not Provenance.measured for score in scores)
        shape, names = plots.SHAPES.get(row.precision, "circle"), ", ".join(point.label for point in points)
        return svg.Point(x, fmean(values), colour, shape, label, f"{names}: {text}", low, high, hollow)

    def _baseline(self, target: str | None, cost: Cost) -> svg.Point | None:
        """The baseline of the first run that has one."""
        for run in self.runs:
            row = _baseline_row(run.rows, target)
            if row and row.accuracy:
                x = cost(File(SweepPoint("baseline", "baseline", {}, run), row))
                return None if x is None else plots.point(row, BASELINE, "baseline", "baseline", x, f" at {x:.4g}")
        return None


def _baseline_row(rows: Sequence[Row], target: str | None) -> Row | None:
    try:
        return baseline(rows, target)
    except IndexError:
        return None


def _ms(device: str, file: File) -> float | None:
    return file.ms_on(device)


def _flops(unit: float, file: File) -> float:
    return file.row.flops / unit


def _megabytes(file: File) -> float | None:
    return None if file.row.size_bytes is None else file.row.size_bytes / 1e6


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points with less cost (x) than any other of at least their accuracy (y), in order of cost."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best
