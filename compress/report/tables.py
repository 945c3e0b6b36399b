"""Tables of the HTML pages as data; `templates/macros.html.j2` draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from compress.budget import Check
from compress.ledger import OperatingPoint, Row, Thresholds
from compress.report import formatting, plots
from compress.report.changes import Change, change_from_baseline, change_from_previous, final_rows
from compress.report.formatting import MISSING
from compress.report.run_reader import Candidate, Manifest, Pruning

POINTS = {"best_f1": "its best F1 score", "confidence_0.25": "confidence 0.25"}  # operating points of a baseline
TONES: dict[bool | None, str] = {True: "good", False: "bad", None: "open"}  # CSS classes


class Detail(NamedTuple):
    """A line in small print; `tone` is a CSS class."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Cell:
    """A text, shown as a coloured tag if `tag` is a CSS class, and lines in small print below it."""

    text: str
    details: Sequence[Detail] = ()
    tag: str = ""


class Column(NamedTuple):
    name: str
    cell: Callable[[Any], str | Cell]
    right: bool = False  # aligned right: a number
    drop: int = 0  # 0: always shown; else columns with a higher number are omitted first in a narrow terminal
    wide: bool = False  # a long text


@dataclass(frozen=True)
class Table:
    """Rows in groups; a `dense` table has a rule above each group."""

    columns: Sequence[Column]
    groups: Sequence[Sequence[Sequence[str | Cell]]]
    dense: bool = False


def build(columns: Sequence[Column], items: Iterable[Any]) -> Table | None:
    """One row per item; None if there are no items."""
    rows = [[column.cell(item) for column in columns] for item in items]
    return Table(columns, [rows]) if rows else None


def by_stage(columns: Sequence[Column], rows: Sequence[Row]) -> list[list[list[Any]]]:
    """The cells of each row, one group per stage."""
    stages = groupby(rows, key=lambda row: row.stage)
    return [[[column.cell(row) for column in columns] for row in stage] for _, stage in stages]


def checks(judged: Sequence[Check]) -> Table | None:
    """Checks of a verdict."""
    columns = (
        Column("", lambda c: Cell(formatting.MARKS[c.met].lower(), tag=TONES[c.met])),
        Column("check", lambda c: c.name),
        Column("artifact", lambda c: formatting.checked_artifact(c) or MISSING),
        Column("value", lambda c: formatting.value_and_limit(c)[0], True),
        Column("limit", lambda c: formatting.value_and_limit(c)[1], True),
        Column("unit", lambda c: c.unit),
    )
    return build(columns, judged)


def measurements(rows: Sequence[Row]) -> Table | None:
    """The ledger: one row per measurement, one group per stage. Latencies state their conditions if these differ."""
    unit, scale = formatting.flops_unit(max((row.flops for row in rows), default=0))
    common = bool(formatting.common_conditions(rows))
    columns = (
        Column("stage", lambda row: _cell(row.stage, "cached" if row.cached else "")),
        Column("target", lambda row: _cell(row.target_name, row.precision)),
        Column(unit, partial(_flops, scale), True),
        Column("params M", lambda row: formatting.mega(row.params, 3), True),
        Column("size MB", lambda row: formatting.mega(row.size_bytes), True),
        Column(f"{plots.metric(rows)} ± 95 % CI", lambda row: _cell(*formatting.accuracy(row)), True),
        Column("latency, ms", partial(_latency, common), True),
        Column("INT8 MACs", lambda row: _cell(*formatting.int8_percent(row)), True),
        Column("vs. previous", lambda row: _change(change_from_previous(rows, row))),
        Column("vs. baseline", lambda row: _change(change_from_baseline(rows, row))),
    )
    return Table(columns, by_stage(columns, rows), dense=True) if rows else None


def _cell(text: str, *details: str) -> Cell:
    return Cell(text, [Detail(line) for line in details if line])


def _flops(scale: float, row: Row) -> Cell:
    at_640 = "" if row.flops_at_640 is None else f"{formatting.decimal(row.flops_at_640, 3, scale)} at 640 px"
    return _cell(formatting.decimal(row.flops, 3, scale), at_640)


def _latency(common: bool, row: Row) -> Cell:
    timing = row.latency_ms
    if timing is None or timing.median is None:
        return Cell(formatting.latency(row))
    spread = f"p95 {formatting.p95(row)}"
    if timing.low and timing.high:  # the range of the median over the measurement
        spread = f"{timing.low:.2f} to {timing.high:.2f}, {spread}"
    conditions = "" if common else formatting.conditions(row)
    return _cell(formatting.latency(row), spread, f"computed in {formatting.inference_precision(row)}", conditions)


def _change(change: Change) -> Cell:
    parts = formatting.change_parts(change)
    details = [Detail(f"{name} {amount}", "" if better is None else TONES[better]) for name, amount, better in parts]
    return Cell("", details) if details else Cell(MISSING)


def further_measurements(rows: Sequence[Row]) -> Table | None:
    columns = (
        Column("stage", lambda row: row.stage),
        Column("target", lambda row: row.target_name),
        Column("precision", lambda row: row.precision),
        Column("input px", lambda row: str(row.imgsz), True),
        Column("other MFLOPs", lambda row: formatting.mega(row.other_flops), True),
        Column("bit operations G", lambda row: formatting.giga(row.bit_operations, 1), True),
        Column("bytes moved M", lambda row: formatting.mega(row.bytes_moved), True),
        Column("peak activations MB", lambda row: formatting.mega(row.activation_bytes), True),
        Column("end to end ms", formatting.end_to_end, True),
        Column("GFLOPS achieved", lambda row: formatting.decimal(row.achieved_gflops, 1), True),
        Column("of the roof", formatting.roof, True),
        Column("energy mJ", formatting.energy, True),
        Column("images evaluated", lambda row: str((row.accuracy and row.accuracy.images) or MISSING), True),
        Column("mAP50", lambda row: formatting.decimal(row.accuracy and row.accuracy.map50, 4), True),
        Column("timing runs", lambda row: str((row.latency_ms and row.latency_ms.runs) or MISSING), True),
    )
    return build(columns, rows)


def thresholds(rows: Sequence[Row]) -> Table | None:
    """Confidence thresholds of the last products, by operating point of the baseline."""
    items = [(row, name, each) for row in final_rows(rows) for name, each in row.thresholds.items()]
    columns = (
        Column("artifact", lambda item: f"{item[0].target_name} {item[0].precision}"),
        Column("baseline at", lambda item: POINTS.get(item[1], item[1])),
        Column("threshold", lambda item: _point(item[2].baseline), True),
        Column("artifact's threshold", lambda item: _point(item[2].artifact, item[2].reason), True),
        Column("recall", lambda item: _recall_change(item[2]), True),
    )
    return build(columns, items)


def _point(point: OperatingPoint | None, reason: str | None = None) -> Cell:
    if point is None:
        return _cell(MISSING, reason or "")
    return _cell(f"{point.threshold:.3f}", f"precision {point.precision:.4f}, recall {point.recall:.4f}")


def _recall_change(each: Thresholds) -> str:
    return formatting.signed(each.artifact.recall - each.baseline.recall) if each.artifact else MISSING


def protected_modules(pruning: Pruning) -> Table | None:
    """Modules that kept all channels, those with most FLOPs first."""
    flops = pruning.out_of_reach
    columns = (
        Column("module", lambda item: item[0]),
        Column("reason", lambda item: item[1]),
        Column("unprunable MFLOPs", lambda item: formatting.mega(flops.get(item[0], 0), 1), True),
    )
    return build(columns, sorted(pruning.protected.items(), key=lambda item: -flops.get(item[0], 0)))


def quantization_candidates(candidates: Sequence[Candidate], quality: str = "accuracy") -> Table | None:
    """Every candidate of the search, the selected one of each target marked. `quality`: see `formatting.quality`."""
    mixed = any(candidate.layers_kept for candidate in candidates)
    columns = (
        Column("", lambda c: Cell("selected", tag=TONES[True]) if c.chosen else ""),
        Column("target", lambda c: c.target),
        Column("scheme", lambda c: c.scheme, wide=True),
        *([Column("further layers in float", lambda c: str(len(c.layers_kept) or MISSING), True)] if mixed else []),
        Column(quality, lambda c: formatting.decimal(c.accuracy, 4), True),
        Column("drop from float", lambda c: formatting.decimal(c.drop, 4), True),
        Column("size MB", lambda c: formatting.mega(c.size_bytes), True),
        Column("latency ms", lambda c: formatting.decimal(c.latency_ms, 2), True),
        Column("search s", lambda c: formatting.decimal(c.seconds, 0), True),
    )
    return build(columns, candidates)


def artifacts(manifests: Mapping[str, Manifest]) -> Table | None:
    """Files of the artifacts with their checksums; the versions stand in the first row of each target."""
    items: list[tuple[str, str, str, str]] = []
    for target, manifest in manifests.items():
        versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
        for path, digest in manifest.files.items():
            items.append((target, path, f"{digest[:16]}…", versions))
            versions = ""
    names = ("target", "file", "SHA-256", "produced with")
    return build([Column(name, itemgetter(i)) for i, name in enumerate(names)], items)
