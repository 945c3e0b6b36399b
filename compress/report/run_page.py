"""`report.html` of a run: one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress.budget import Verdict
from compress.ledger import Row
from compress.report import (
    accuracy_details,
    answer,
    drawings,
    formatting,
    layer_charts,
    page,
    plots,
    tables,
    training_curves,
)
from compress.report.changes import BASELINE_STAGES, baseline_row, change_from_baseline, torch_rows
from compress.report.run_reader import Pruning, Run, read_run

Tile = tuple[str, str, str]  # label, value, note


def render(folder: Path) -> Path:
    """Write `report.html` into a run folder, from the files in that folder alone, and return its path. Raises UserError
    if `folder` is not a run folder, or one of its files is damaged."""
    run = read_run(folder)
    rows, quality = run.rows, formatting.quality(run.rows)
    answers = answer.answers(run)
    folded, checks = formatting.folded_checks(run.verdict)
    return page.write(
        folder / "report.html",
        "run.html.j2",
        run=run,
        summary=_summary(run),
        banner=_banner(run.verdict),
        answers=answers,
        tiles=[*_torch_tiles(rows), *([] if answers else _latency_tiles(rows))],
        training=training_curves.charts(run.training),
        training_legend=training_curves.legend(run.training),
        checks=tables.checks(checks),
        folded=formatting.folded(folded),
        folded_checks=tables.checks(folded),
        remarks=[remark.text for remark in run.verdict.remarks] if run.verdict else [],
        costs=plots.costs(rows),
        measurements=tables.measurements(rows),
        conventions=_conventions(rows),
        drawings=drawings.images(run.folder, run.drawings),
        figures=accuracy_details.figures(rows),
        per_class=accuracy_details.per_class(rows),
        confusions=accuracy_details.confusions(rows),
        trade_offs=plots.trade_offs(rows),
        targets=plots.legend(rows),
        latencies_and_sizes=plots.latencies_and_sizes(rows),
        pruning=_pruning(run.pruning),
        protected_modules=tables.protected_modules(run.pruning),
        pruned_layers=layer_charts.pruned_layers(run.pruning, run.layer_times),
        thresholds=tables.thresholds(rows),
        quality=quality,
        quantization_candidates=tables.quantization_candidates(run.quantization.candidates, quality),
        sensitivity=layer_charts.sensitivity(run.quantization),
        further_measurements=tables.further_measurements(rows),
        artifacts=tables.artifacts(run.manifests),
    )


def _summary(run: Run) -> list[str]:
    """Run, model, data and device."""
    words, model = [run.name], run.config.get("model")
    if isinstance(model, dict):
        name = model.get("name") or model.get("path") or model.get("target") or model.get("family")
        words.append(f"{name} at {model.get('imgsz')} px")
    for key in ("data", "device"):
        group = run.config.get(key)
        if isinstance(group, dict) and group.get("name"):
            words.append(f"{key}: {group['name']}")
    return words


def _banner(verdict: Verdict | None) -> tuple[str, str, str]:
    """(CSS class, headline, details)."""
    headline = formatting.headline(verdict)
    if verdict is None:
        return "open", headline, "This run has no verdict yet."
    states = [check.met for check in verdict.checks]
    kinds = ((True, "met"), (False, "missed"), (None, "could not be measured"))
    counts = [f"{states.count(state)} {kind}" for state, kind in kinds if states.count(state)]
    details = [f"All {len(states)} checks are met"] if len(states) > 1 and all(states) else counts
    details += [f"{target} failed: {reason}" for target, reason in verdict.failures.items()]
    details += [remark.text for remark in verdict.remarks[:1] if remark.kind == "baseline_knows_nothing"]
    tone = tables.TONES[verdict.met] if states or verdict.met is False else "open"
    return tone, headline, ", ".join(details) or "No limit was set for this run."


def _torch_tiles(rows: Sequence[Row]) -> list[Tile]:
    """The last torch row against the baseline; empty if it is the baseline."""
    baseline, torch = baseline_row(rows), torch_rows(rows)
    if baseline is None or torch[-1] is baseline:
        return []
    tiles, last = [], torch[-1]
    label, unit = formatting.flops_unit(baseline.flops)
    pairs = (label, unit, 3, baseline.flops, last.flops), ("Parameters, M", 1e6, 2, baseline.params, last.params)
    for label, unit, digits, old, new in pairs:
        if old and new is not None:
            text = f"{formatting.decimal(old, digits, unit)} → {formatting.decimal(new, digits, unit)}"
            tiles.append((label, text, f"{formatting.signed(100 * (new / old - 1), 1)} %"))
    change, before, after = change_from_baseline(rows, last).accuracy, baseline.accuracy, last.accuracy
    if change is not None and before and after:
        note = f"{formatting.signed(change)} on {after.images} images"
        note = formatting.annotated(note, formatting.provenance(after.obtained))
        tiles.append((f"{after.metric}, torch", f"{before.value:.4f} → {after.value:.4f}", note))
    return tiles


def _conventions(rows: Sequence[Row]) -> str:
    common = formatting.common_conditions(rows)
    return formatting.CONVENTIONS + (f" All latencies here: {common} (threads, batch, device)." if common else "")


def _latency_tiles(rows: Sequence[Row]) -> list[Tile]:
    """The fastest row of each runtime and device that has a baseline to compare with."""
    fastest: dict[str, tuple[float, Tile]] = {}
    for row in rows:
        change = change_from_baseline(rows, row)
        if row.stage in BASELINE_STAGES or change.latency is None or row.target is None:
            continue
        label = f"{row.target_name} on {formatting.device(row)}, ms"
        if label not in fastest or change.latency <= fastest[label][0]:
            note = f"{formatting.latency_ratio(change)} of the baseline, {row.precision} file"
            fastest[label] = change.latency, (label, formatting.latency(row), note)
    return [tile for _, tile in fastest.values()]


def _pruning(record: Pruning) -> str:
    """Summary of `pruning.json`; "" if nothing was pruned."""
    if record == Pruning():
        return ""
    text = f"Layers that were narrowed: {len(record.channels)}"
    if record.reachable:
        name, unit = formatting.flops_unit(2 * record.reachable[1])
        least, most = (formatting.decimal(2 * macs, 3, unit) for macs in record.reachable)
        text += f"; reachable: {least} to {most} {name}"
    return f"{text}. Modules that kept all channels: {len(record.protected)}."
