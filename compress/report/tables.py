"""Tables of the HTML pages as data; `templates/macros.html.j2` draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from compress.report import formatting, plots
from compress.report.changes import Change, change_from_baseline, change_from_previous
from compress.report.formatting import MISSING
from compress.report.run_reader import Row, number, part

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


def checks(records: Sequence[Mapping[str, Any]]) -> Table | None:
    """Checks of a verdict."""

    def limit(record: Mapping[str, Any]) -> tuple[str, str]:
        return formatting.value_and_limit(record.get("value"), record.get("limit"))

    columns = (
        Column("", lambda c: Cell(formatting.MARKS[c.get("met")].lower(), tag=TONES[c.get("met")])),
        Column("check", lambda c: str(c.get("name"))),
        Column("artifact", lambda c: formatting.checked_artifact(c) or MISSING),
        Column("value", lambda c: limit(c)[0], True),
        Column("limit", lambda c: limit(c)[1], True),
        Column("unit", lambda c: str(c.get("unit") or "")),
    )
    return build(columns, records)


def measurements(rows: Sequence[Row]) -> Table | None:
    """The ledger: one row per measurement, one group per stage."""
    columns = (
        Column("stage", lambda row: _cell(row["stage"], "cached" if row.get("cached") else "")),
        Column("target", lambda row: _cell(formatting.target_name(row), str(row.get("precision") or MISSING))),
        Column("GFLOPs", _flops, True),
        Column("params M", lambda row: formatting.mega(row.get("params"), 3), True),
        Column("size MB", lambda row: formatting.mega(row.get("size_bytes")), True),
        Column(f"{plots.metric(rows)} ± 95 % CI", _accuracy, True),
        Column("latency, ms", _latency, True),
        Column("INT8 MACs", _int8, True),
        Column("vs. previous", lambda row: _change(change_from_previous(rows, row))),
        Column("vs. baseline", lambda row: _change(change_from_baseline(rows, row))),
    )
    stages = (list(group) for _, group in groupby(rows, key=lambda row: row["stage"]))
    groups = [[[column.cell(row) for column in columns] for row in stage] for stage in stages]
    return Table(columns, groups, dense=True) if groups else None


def _cell(text: str, *details: str) -> Cell:
    return Cell(text, [Detail(line) for line in details if line])


def _flops(row: Row) -> Cell:
    at_640 = formatting.giga(row.get("flops_at_640"))
    macs = f"{formatting.giga(row.get('macs'))} GMACs"
    return _cell(formatting.giga(row.get("flops")), macs, "" if at_640 == MISSING else f"{at_640} at 640 px")


def _accuracy(row: Row) -> Cell:
    text = formatting.accuracy(row)
    if number(part(row, "accuracy").get("value")) is None:
        return Cell(text)
    value, _, rest = text.partition(" ")
    interval, _, provenance = rest.partition("(")
    return _cell(value, interval, provenance.rstrip(")"))


def _latency(row: Row) -> Cell:
    setup = formatting.timing_setup(row)
    if setup == MISSING:
        return Cell(formatting.latency(row))
    low_high = formatting.latency_range(row)
    p95 = f"p95 {formatting.p95(row)}"
    return _cell(formatting.latency(row), f"{low_high}, {p95}" if low_high else p95, setup)


def _int8(row: Row) -> Cell:
    percent, _, source = formatting.int8_percent(row).partition(" (")
    return _cell(percent, source.rstrip(")"))


def _change(change: Change) -> Cell:
    parts = formatting.change_parts(change)
    details = [Detail(f"{name} {amount}", "" if better is None else TONES[better]) for name, amount, better in parts]
    return Cell("", details) if details else Cell(MISSING)


def further_measurements(rows: Sequence[Row]) -> Table | None:
    def metric(row: Row, name: str) -> str:
        return str(part(row, "accuracy").get(name) or MISSING)

    def map50(row: Row) -> str:
        value = number(part(row, "accuracy").get("map50"))
        return MISSING if value is None else f"{value:.4f}"

    columns = (
        Column("stage", lambda row: row["stage"]),
        Column("target", formatting.target_name),
        Column("precision", lambda row: str(row.get("precision") or MISSING)),
        Column("input px", lambda row: str(row.get("imgsz") or MISSING), True),
        Column("other MFLOPs", lambda row: formatting.mega(row.get("other_flops")), True),
        Column("bit operations G", lambda row: formatting.giga(row.get("bit_operations"), 1), True),
        Column("bytes moved M", lambda row: formatting.mega(row.get("bytes_moved")), True),
        Column("peak activations MB", lambda row: formatting.mega(row.get("activation_bytes")), True),
        Column("energy mJ", formatting.energy, True),
        Column("images evaluated", lambda row: metric(row, "images"), True),
        Column("mAP50", map50, True),
        Column("timing runs", lambda row: str(part(row, "latency_ms").get("runs") or MISSING), True),
    )
    return build(columns, rows)


def protected_modules(pruning: Mapping[str, Any]) -> Table | None:
    """Modules that kept all channels, those with most FLOPs first."""
    flops = pruning.get("out_of_reach") or {}  # by module
    columns = (
        Column("module", lambda item: item[0]),
        Column("reason", lambda item: str(item[1])),
        Column("unprunable MFLOPs", lambda item: f"{flops.get(item[0], 0) / 1e6:.1f}", True),
    )
    return build(columns, sorted((pruning.get("protected") or {}).items(), key=lambda item: -flops.get(item[0], 0)))


def pruned_layers(pruning: Mapping[str, Any]) -> Table | None:
    columns = (
        Column("layer", lambda item: item[0]),
        Column("channels before", lambda item: str(item[1][0]), True),
        Column("after", lambda item: str(item[1][1]), True),
        Column("kept", lambda item: f"{item[1][1] / item[1][0]:.0%}", True),
    )
    return build(columns, (pruning.get("channels") or {}).items())


def quantization_candidates(quantization: Mapping[str, Any]) -> Table | None:
    """Every candidate of the search, the selected one of each target marked."""

    def latency(candidate: Mapping[str, Any]) -> str:
        return MISSING if candidate.get("latency_ms") is None else f"{candidate['latency_ms']:.2f}"

    columns = (
        Column("", lambda c: Cell("selected", tag=TONES[True]) if c.get("chosen") else ""),
        Column("target", lambda c: str(c.get("target"))),
        Column("scheme", lambda c: str(c.get("scheme"))),
        Column("further layers in float", lambda c: str(len(c.get("layers_kept") or []) or MISSING), True),
        Column("accuracy", lambda c: f"{c['accuracy']:.4f}", True),
        Column("drop from float", lambda c: f"{c['drop']:.4f}", True),
        Column("size MB", lambda c: formatting.mega(c.get("size_bytes")), True),
        Column("latency ms", latency, True),
        Column("search s", lambda c: f"{c['seconds']:.0f}", True),
    )
    return build(columns, quantization.get("candidates") or [])


def artifacts(manifests: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Files of the artifacts with their checksums; the versions stand in the first row of each target."""
    items: list[tuple[str, str, str, str]] = []
    for target, manifest in manifests.items():
        versions, files = manifest.get("versions"), manifest.get("files")
        text = ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else str(versions or "")
        for path, digest in files.items() if isinstance(files, dict) else ():
            items.append((target, path, f"{str(digest)[:16]}…", text))
            text = ""
    names = ("target", "file", "SHA-256", "produced with")
    return build([Column(name, itemgetter(i)) for i, name in enumerate(names)], items)
