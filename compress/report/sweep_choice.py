"""What the points of a sweep deliver, and the point to choose.

The choice is the cheapest point that meets its budget, if the budget limits the accuracy. If it does not, points within
one standard error of the most accurate one count as equally accurate, and the cheapest of them is chosen (the rule of
one standard error: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3). Cost is the latency
measured on the deployment device; without it the latency predicted for the device; without that FLOPs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress.budget.selection import median
from compress.ledger import Accuracy, Row
from compress.report import formatting
from compress.report.answer import chosen
from compress.report.sweep_reader import SweepPoint
from compress.timing_noise import differ, speed

Z95 = 1.96  # half the width of an interval of 95 % in standard errors
SEED = "seed"


@dataclass(frozen=True)
class File:
    """The file that a point recommends for a runtime; for points without artifacts its torch network."""

    point: SweepPoint
    row: Row
    predicted_ms: float | None = None  # on the deployment device

    @property
    def name(self) -> str:
        return f"{self.row.target_name} {self.row.precision}"

    def ms_on(self, device: str) -> float | None:
        """Median latency measured on a device."""
        return median(self.row) if formatting.device(self.row) == device else None

    @property
    def accuracy(self) -> Accuracy | None:
        last = self.point.last_row
        return self.row.accuracy or (last.accuracy if last else None)


@dataclass(frozen=True)
class Choice:
    """`file` is that of the chosen point with the lowest cost."""

    file: File
    reason: str


@dataclass(frozen=True)
class _Cost:
    """A kind of cost; `of` is None for files that it is not known of."""

    of: Callable[[File], float | None]
    text: Callable[[File], str]
    timed: bool = False


def files(point: SweepPoint) -> list[File]:
    """The recommended file for each runtime; the torch network if there are no artifacts; nothing if nothing was
    measured."""
    if point.run is None or point.last_row is None:
        return []
    predicted = point.predicted_ms
    rows = chosen(point.run).items()
    return [File(point, row, predicted.get(f"{target}/{row.precision}")) for target, row in rows] or [
        File(point, point.last_row)
    ]


def choose(points: Sequence[SweepPoint], keys: Sequence[str]) -> Choice | None:
    """The point to choose of those that meet their budget; None if there is none. Points that differ only in their seed
    are one candidate, which all of them must meet, with the mean of their accuracies.

    Args:
        keys: in which the points differ.
    """
    candidates = [group for group in by_setting(points, keys) if all(point.met for point in group)]
    delivered = [[file for point in group for file in files(point) if file.accuracy] for group in candidates]
    delivered = [group for group in delivered if group]
    if not delivered:
        return None
    limited = all(_limits_accuracy(file.point) for group in delivered for file in group)
    accurate = max(delivered, key=_accuracy)
    good = delivered if limited else [g for g in delivered if _accuracy(g) >= _accuracy(accurate) - _error(accurate)]
    cost = _cost(good)
    best = [min(group, key=lambda file: _known(cost.of(file))) for group in good]
    cheapest = min(best, key=lambda file: _known(cost.of(file)))
    if cost.timed:
        cheapest = min(best, key=lambda file: speed(cheapest.row.latency_ms, file.row.latency_ms) or math.inf)
        ties = [f for f in best if f is cheapest or differ(cheapest.row.latency_ms, f.row.latency_ms) is False]
        cheapest = min(ties, key=lambda file: file.point.flops)
    return Choice(cheapest, _reason(cheapest, cost, limited, len(candidates), max(accurate, key=_value)))


def by_setting(points: Sequence[SweepPoint], keys: Sequence[str]) -> list[list[SweepPoint]]:
    """The points in groups that differ only in their seed."""
    groups: dict[tuple[str, ...], list[SweepPoint]] = {}
    for point in points:
        setting = tuple(str(point.config.get(key)) for key in keys if key != SEED) if point.config else (point.name,)
        groups.setdefault(setting, []).append(point)
    return list(groups.values())


def _reason(file: File, cost: _Cost, limited: bool, candidates: int, accurate: File) -> str:
    if candidates == 1:
        text = "The only point that meets its budget"
    elif limited:
        text = f"The cheapest of {candidates} points that meet their budget, which limits the accuracy"
    else:
        text = (
            f"The cheapest of {candidates} points that meet their budget and are within one standard error of the most "
            "accurate one, because the budget does not limit the accuracy"
        )
    text += f": {cost.text(file)}."
    gain = _value(accurate) - _value(file)
    if accurate.accuracy and gain >= formatting.SAME_ACCURACY:
        text += f" The most accurate one, {accurate.point.label}, reaches {accurate.accuracy.value:.4f}"
        text += f" ({formatting.signed(gain)}): {cost.text(accurate)}."
    return text


def _limits_accuracy(point: SweepPoint) -> bool:
    checks = point.run.verdict.checks if point.run and point.run.verdict else ()
    return any(check.name == "budget.max_accuracy_drop" for check in checks)


def _cost(groups: Sequence[Sequence[File]]) -> _Cost:
    """The first kind of cost that is known of every candidate."""
    device = groups[0][0].point.run.device if groups[0][0].point.run else ""

    kinds = [
        _Cost(lambda file: file.ms_on(device), lambda file: _measured(file, device), timed=True),
        _Cost(lambda file: file.predicted_ms, lambda file: _predicted(file, device)),
        _Cost(lambda file: file.point.flops, lambda file: flops_text(file.point.flops)),
    ]
    return next(kind for kind in kinds if all(any(kind.of(file) is not None for file in group) for group in groups))


def flops_text(flops: float) -> str:
    """`4.95 GFLOPs`."""
    unit, scale = formatting.flops_unit(flops)
    return f"{formatting.decimal(flops, 3, scale)} {unit}"


def _measured(file: File, device: str) -> str:
    return f"{formatting.latency(file.row)} ms measured on {device} ({file.name})"


def _predicted(file: File, device: str) -> str:
    ms = formatting.MISSING if file.predicted_ms is None else f"{file.predicted_ms:.3g}"
    return f"{ms} ms predicted on {device} ({file.name})"


def _known(cost: float | None) -> float:
    return math.inf if cost is None else cost


def _value(file: File) -> float:
    return file.accuracy.value if file.accuracy else math.nan


def _accuracy(group: Sequence[File]) -> float:
    """Mean over the seeds of the best file of each."""
    best: dict[str, float] = {}
    for file in group:
        best[file.point.name] = max(best.get(file.point.name, -math.inf), _value(file))
    return sum(best.values()) / len(best)


def _error(group: Sequence[File]) -> float:
    """Standard error of the accuracy of the best file; 0 if it has no interval."""
    score = max(group, key=_value).accuracy
    return (score.ci95[1] - score.ci95[0]) / 2 / Z95 if score and score.ci95 else 0.0
