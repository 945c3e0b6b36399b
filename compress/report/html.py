"""`report.html`: one self-contained page a run can be reviewed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress import atomic
from compress.report import formatting, page, plots
from compress.report.chain import BASELINES, Change, change_from_start, number, part, start_of, torch_rows
from compress.report.ledger_table import ledger_table
from compress.report.page import Cell, Chart, Table
from compress.report.run import Row, Run, read_run


def render(run: Path) -> Path:
    """Writes `report.html` into the run folder from what is in it, and returns its path.

    Raises:
        UserError: no such run, or a damaged file in it.
    """
    found = read_run(run)
    rows, verdict = found.rows, found.verdict or {}
    html = page.render(
        "run.html",
        title=f"{found.name} – compress report",
        recipe=found.recipe,
        subtitle=_subtitle(found),
        banner=_banner(found),
        tiles=_tiles(rows),
        notes=found.notes,
        checks=_checks(verdict.get("checks") or []),
        remarks=[str(remark.get("text")) for remark in verdict.get("remarks") or []],
        stages=_waterfall(rows),
        ledger=ledger_table(rows) if rows else None,
        trade_offs=_trade_offs(rows),
        legend=list({formatting.target_name(row): plots.colour(row) for row in rows}.items()),
        comparison=_before_after(rows),
        details=[
            ("What was pruned", _pruning(found.pruning)),
            ("How it was quantized", _quantization(found.quantization)),
            ("More numbers", _more(rows)),
            ("Artifacts and versions", _artifacts(found)),
        ],
        config=found.config_text,
    )
    return atomic.write(run / "report.html", html)


def _subtitle(run: Run) -> str:
    model = run.config.get("model")
    parts = [run.name]
    if isinstance(model, dict):
        what = model.get("name") or model.get("path") or model.get("target") or model.get("family")
        parts.append(f"{what} at {model.get('imgsz')} px")
    for key in ("data", "device"):
        group = run.config.get(key)
        if isinstance(group, dict) and group.get("name"):
            parts.append(f"{key}: {group['name']}")
    return "  ·  ".join(parts)


def _banner(run: Run) -> dict[str, str]:
    verdict = run.verdict
    met = verdict.get("met") if verdict else None
    judged = bool(verdict and verdict.get("checks"))
    detail = ["This run has no verdict yet."] if verdict is None else []
    if verdict is not None:
        states = [check.get("met") for check in verdict.get("checks") or []]
        kinds = ((True, "met"), (False, "missed"), (None, "could not be measured"))
        detail = [f"{states.count(state)} {word}" for state, word in kinds if states.count(state)]
        detail += [f"{target} failed: {why}" for target, why in (verdict.get("failures") or {}).items()]
    first = (verdict or {}).get("remarks") or [{}]
    if first[0].get("kind") == "baseline_knows_nothing":
        detail.append(str(first[0].get("text")))
    return {
        "tone": page.tone(met) if judged or met is False else "open",
        "headline": formatting.headline(verdict),
        "detail": ", ".join(detail) if detail else "No limit was set for this run.",
    }


def _tiles(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    start, torch = start_of(rows), torch_rows(rows)
    tiles = _torch_tiles(rows, start, torch[-1]) if start is not None and torch[-1] is not start else []
    return tiles + _speed_tiles(rows)


def _torch_tiles(rows: Sequence[Row], start: Row, last: Row) -> list[tuple[str, str, str]]:
    tiles = []
    for label, name, show in (("GFLOPs", "flops", formatting.giga), ("Parameters, M", "params", formatting.mega)):
        old, new = number(start.get(name)), number(last.get(name))
        if old and new is not None:
            tiles.append((label, f"{show(old)} → {show(new)}", f"{formatting.signed(100 * (new / old - 1), 1)} %"))
    change = change_from_start(rows, last).accuracy
    if change is not None:
        a, b = part(start, "accuracy"), part(last, "accuracy")
        label = f"{a.get('metric') or 'accuracy'}, torch"
        how = "" if b.get("obtained") == "measured" else f" ({b.get('obtained')})"
        said = f"{formatting.signed(change)} points on {b.get('images')} images{how}"
        tiles.append((label, f"{a['value']:.4f} → {b['value']:.4f}", said))
    return tiles


def _speed_tiles(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """The fastest final row of each runtime and device that has a loaded row to compare with."""
    best: dict[tuple[str, str], tuple[float, Change, Row]] = {}
    for row in (row for row in rows if row["stage"] not in BASELINES):
        change = change_from_start(rows, row)
        key = (formatting.target_name(row), str(part(row, "latency_ms").get("device")))
        if change.latency is not None and row.get("target") and (key not in best or change.latency <= best[key][0]):
            best[key] = (change.latency, change, row)
    return [
        (
            f"{target} on {device}, ms",
            f"{formatting.latency(row)}",
            f"{formatting.times(change)} of the baseline, {row.get('precision')} file",
        )
        for (target, device), (_, change, row) in best.items()
    ]


def _checks(checks: Sequence[Mapping[str, Any]]) -> Table | None:
    rows: list[page.Row] = []
    for check in checks:
        value, limit = formatting.against(check.get("value"), check.get("limit"))
        where = "/".join(str(check[name]) for name in ("target", "precision") if check.get(name))
        met = check.get("met")
        state = Cell("", tag=formatting.MARKS[met].lower(), tone=page.tone(met))
        unit = str(check.get("unit") or "")
        rows.append((state, str(check.get("name")), where or formatting.NONE, value, limit, unit))
    head = ("", "limit on", "target", "value", "at most", "unit")
    return Table(head, [rows], frozenset({3, 4})) if rows else None


def _waterfall(rows: Sequence[Row]) -> list[Chart]:
    flops = "Of the fused graph as deployed, 1 MAC = 2 FLOPs. Quantization leaves FLOPs as they are."
    bits = "MACs × weight bits × activation bits: what quantization makes cheaper. It is no latency."
    return page.charts(
        ("GFLOPs", plots.waterfall(rows, "flops", "GFLOPs"), flops),
        ("Bit operations", plots.waterfall(rows, "bit_operations", "G bit ops"), bits),
    )


def _trade_offs(rows: Sequence[Row]) -> list[Chart]:
    flops, note = plots.accuracy_against_flops(rows)
    drawn = [("Accuracy against FLOPs", flops, note)]
    for device in plots.devices(rows):
        drawn.append((f"Accuracy against latency, {device}", plots.accuracy_against_latency(rows, device), ""))
    return page.charts(*drawn)


def _before_after(rows: Sequence[Row]) -> list[Chart]:
    note = "×: against the baseline in the same runtime. Last: the precision the runtime computed in."
    drawn = [
        (f"Median latency, {device} (ms)", plots.latency_bars(rows, device), note) for device in plots.devices(rows)
    ]
    sizes = ("Size of the files the runtime needs", plots.size_bars(rows), "")
    return page.charts(*drawn[:1], sizes, *drawn[1:])


def _more(rows: Sequence[Row]) -> list[Table]:
    head = (
        "stage", "target", "", "px", "other MFLOPs", "bit operations G", "bytes moved M", "peak activations MB",
        "energy mJ", "accuracy images", "map50", "runs",
    )  # fmt: skip
    return [Table(head, [[_more_row(row) for row in rows]], frozenset(range(3, 12)))] if rows else []


def _more_row(row: Row) -> list[str]:
    scored, timed = part(row, "accuracy"), part(row, "latency_ms")
    map50 = number(scored.get("map50"))
    cells = (
        row["stage"],
        formatting.target_name(row),
        row.get("precision") or formatting.NONE,
        row.get("imgsz") or formatting.NONE,
        formatting.mega(row.get("other_flops")),
        formatting.giga(row.get("bit_operations"), 1),
        formatting.mega(row.get("bytes_moved")),
        formatting.mega(row.get("activation_bytes")),
        formatting.energy(row),
        scored.get("images") or formatting.NONE,
        formatting.NONE if map50 is None else f"{map50:.4f}",
        timed.get("runs") or formatting.NONE,
    )
    return [str(cell) for cell in cells]


def _pruning(record: Mapping[str, Any]) -> list[Table]:
    """Channels of each layer before and after, and what kept its channels and why."""
    if not record:
        return []
    channels, protected = record.get("channels") or {}, record.get("protected") or {}
    note = f"{len(channels)} layers are narrower"
    if record.get("reachable"):
        least, most = (formatting.giga(2 * macs) for macs in record["reachable"])
        note += f"; between {least} and {most} GFLOPs could be reached"
    narrower = [
        [str(layer), str(before), str(after), f"{after / before:.0%}"] for layer, (before, after) in channels.items()
    ]
    unprunable = record.get("out_of_reach") or {}  # FLOPs by module
    kept = [
        [str(module), str(why), f"{unprunable.get(module, 0) / 1e6:.1f}"]
        for module, why in sorted(protected.items(), key=lambda item: -unprunable.get(item[0], 0))
    ]
    above = f"{note}. {len(kept)} modules kept their channels:"
    tables = [Table(("module", "reason", "unprunable MFLOPs"), [kept], frozenset((2,)), above)] if kept else []
    head = ("layer", "channels before", "after", "kept")
    return [*tables, Table(head, [narrower], frozenset((1, 2, 3)), "" if kept else above)]


def _quantization(record: Mapping[str, Any]) -> list[Table]:
    """Every candidate that was tried for a target, and which one was chosen."""
    rows: list[page.Row] = []
    for tried in record.get("candidates") or []:
        layers, took = tried.get("layers_kept") or [], tried.get("latency_ms")
        cells = [str(tried.get("target")), str(tried.get("scheme")), str(len(layers) or formatting.NONE)]
        cells += [f"{tried['accuracy']:.4f}", f"{tried['drop']:.4f}", formatting.mega(tried.get("size_bytes"))]
        cells += [formatting.NONE if took is None else f"{took:.2f}", f"{tried['seconds']:.0f}"]
        rows.append([Cell("", tag="chosen", tone="good") if tried.get("chosen") else "", *cells])
    head = (
        "", "target", "scheme", "more layers in float", "accuracy", "below FP32", "size MB", "latency ms", "seconds",
    )  # fmt: skip
    above = (
        "Accuracy on the calibration images, which are part of the training split, so that the validation split stays "
        "unseen. Candidates are timed in turns where this machine is the device."
    )
    return [Table(head, [rows], frozenset(range(3, 9)), above)] if rows else []


def _artifacts(run: Run) -> list[Table]:
    rows: list[page.Row] = []
    for target, manifest in run.manifests.items():
        versions, files = manifest.get("versions"), manifest.get("files")
        said = ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else str(versions or "")
        for path, digest in files.items() if isinstance(files, dict) else ():
            rows.append([target, str(path), Cell(f"{str(digest)[:16]}…", code=True), said])
            said = ""
    return [Table(("target", "file", "sha256", "made with"), [rows])] if rows else []
