"""`report.html` of a run: one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compress.report import formatting, page, plots, tables
from compress.report.changes import BASELINE_STAGES, Change, baseline_row, change_from_baseline, torch_rows
from compress.report.run_reader import Row, Run, number, part, read_run


class Banner(NamedTuple):
    tone: str  # CSS class
    headline: str
    details: str


class Tile(NamedTuple):
    label: str
    value: str
    note: str


def render(folder: Path) -> Path:
    """Write `report.html` into a run folder, from the files in that folder alone, and return its path.

    Raises:
        UserError: `folder` is not a run folder, or one of its files is damaged.
    """
    run = read_run(folder)
    checks, rows = (run.verdict or {}).get("checks") or [], run.rows
    passed = [check for check in checks if formatting.is_passed_acceptance_check(check)]
    return page.write(
        folder / "report.html",
        "run.html.j2",
        run=run,
        summary=_summary(run),
        banner=_banner(run.verdict),
        tiles=_tiles(rows),
        checks=tables.checks([check for check in checks if check not in passed]),
        passed_acceptance_checks=formatting.passed_acceptance_checks(passed),
        acceptance_checks=tables.checks(passed),
        remarks=[str(remark.get("text")) for remark in (run.verdict or {}).get("remarks") or []],
        costs=plots.costs(rows),
        measurements=tables.measurements(rows),
        conventions=formatting.CONVENTIONS,
        trade_offs=plots.trade_offs(rows),
        legend=plots.legend(rows),
        latencies_and_sizes=plots.latencies_and_sizes(rows),
        pruning=_pruning(run.pruning),
        protected_modules=tables.protected_modules(run.pruning),
        pruned_layers=tables.pruned_layers(run.pruning),
        quantization_candidates=tables.quantization_candidates(run.quantization),
        further_measurements=tables.further_measurements(rows),
        artifacts=tables.artifacts(run.manifests),
    )


def _summary(run: Run) -> list[str]:
    """Run, model, data and device."""
    words = [run.name]
    model = run.config.get("model")
    if isinstance(model, dict):
        name = model.get("name") or model.get("path") or model.get("target") or model.get("family")
        words.append(f"{name} at {model.get('imgsz')} px")
    for key in ("data", "device"):
        group = run.config.get(key)
        if isinstance(group, dict) and group.get("name"):
            words.append(f"{key}: {group['name']}")
    return words


def _banner(verdict: dict[str, Any] | None) -> Banner:
    headline = formatting.headline(verdict)
    if verdict is None:
        return Banner("open", headline, "This run has no verdict yet.")
    states = [check.get("met") for check in verdict.get("checks") or []]
    kinds = ((True, "met"), (False, "missed"), (None, "could not be measured"))
    details = [f"{states.count(state)} {kind}" for state, kind in kinds if states.count(state)]
    details += [f"{target} failed: {reason}" for target, reason in (verdict.get("failures") or {}).items()]
    details += [
        str(remark.get("text"))
        for remark in (verdict.get("remarks") or [])[:1]
        if remark.get("kind") == "baseline_knows_nothing"
    ]
    met = verdict.get("met")
    tone = tables.TONES[met] if states or met is False else "open"
    return Banner(tone, headline, ", ".join(details) or "No limit was set for this run.")


def _tiles(rows: Sequence[Row]) -> list[Tile]:
    baseline, torch = baseline_row(rows), torch_rows(rows)
    changed = baseline is not None and torch[-1] is not baseline
    return [*(_torch_tiles(rows, baseline, torch[-1]) if baseline and changed else []), *_latency_tiles(rows)]


def _torch_tiles(rows: Sequence[Row], baseline: Row, last: Row) -> list[Tile]:
    tiles = []
    for label, name, show in (("GFLOPs", "flops", formatting.giga), ("Parameters, M", "params", formatting.mega)):
        old, new = number(baseline.get(name)), number(last.get(name))
        if old and new is not None:
            tiles.append(Tile(label, f"{show(old)} → {show(new)}", f"{formatting.signed(100 * (new / old - 1), 1)} %"))
    change = change_from_baseline(rows, last).accuracy
    if change is not None:
        a, b = part(baseline, "accuracy"), part(last, "accuracy")
        provenance = "" if b.get("obtained") == "measured" else f" ({b.get('obtained')})"
        note = f"{formatting.signed(change)} on {b.get('images')} images{provenance}"
        tiles.append(Tile(f"{a.get('metric') or 'accuracy'}, torch", f"{a['value']:.4f} → {b['value']:.4f}", note))
    return tiles


def _latency_tiles(rows: Sequence[Row]) -> list[Tile]:
    """The fastest row of each runtime and device that has a baseline to compare with."""
    fastest: dict[tuple[str, str], tuple[float, Change, Row]] = {}
    for row in rows:
        change = change_from_baseline(rows, row)
        if row["stage"] in BASELINE_STAGES or change.latency is None or not row.get("target"):
            continue
        key = (formatting.target_name(row), str(part(row, "latency_ms").get("device")))
        if key not in fastest or change.latency <= fastest[key][0]:
            fastest[key] = (change.latency, change, row)
    return [
        Tile(
            f"{target} on {device}, ms",
            formatting.latency(row),
            f"{formatting.latency_ratio(change)} of the baseline, {row.get('precision')} file",
        )
        for (target, device), (_, change, row) in fastest.items()
    ]


def _pruning(record: dict[str, Any]) -> str:
    """Summary of `pruning.json`; "" if nothing was pruned."""
    if not record:
        return ""
    text = f"{len(record.get('channels') or {})} layers were narrowed"
    if record.get("reachable"):
        least, most = (formatting.giga(2 * macs) for macs in record["reachable"])
        text += f"; reachable: {least} to {most} GFLOPs"
    return f"{text}. {len(record.get('protected') or {})} modules kept all channels."
