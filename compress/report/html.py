"""`report.html`: one self-contained page a run can be reviewed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress import atomic
from compress.report import page, plots, words
from compress.report.chain import BASELINES, Change, change_from_start, number, part, start_of, torch_rows
from compress.report.ledger_table import ledger_table
from compress.report.page import text
from compress.report.run import Row, Run, read_run


def render(run: Path) -> Path:
    """Write `report.html` into the run folder from what lies there, and return its path.

    Raises:
        UserError: no such run, or a damaged file in it.
    """
    found = read_run(run)
    return atomic.write(run / "report.html", page.document(f"{found.name} – compress report", _body(found)))


def _body(run: Run) -> list[str]:
    return [
        _header(run),
        _banner(run),
        _tiles(run.rows),
        page.section("Notes on this report", _list(run.notes)) if run.notes else "",
        page.section("Budget", _checks(run)) if run.verdict and run.verdict.get("checks") else "",
        page.section("Remarks", _remarks(run)),
        page.section("Stage by stage", _waterfall(run.rows)),
        page.section("Every weighing", ledger_table(run.rows)) if run.rows else "",
        page.section("Trade-offs", _trade_offs(run.rows)),
        page.section("Before and after", _before_after(run.rows)),
        page.folded("What was pruned", _pruning(run.pruning)),
        page.folded("How it was quantized", _quantization(run.quantization)),
        page.folded("More numbers", _more(run.rows)),
        page.folded("Artifacts and versions", _artifacts(run)),
        page.folded("Configuration", f"<pre>{text(run.config_text)}</pre>" if run.config_text else ""),
    ]


def _header(run: Run) -> str:
    model = run.config.get("model")
    facts = [run.name]
    if isinstance(model, dict):
        what = model.get("name") or model.get("path") or model.get("target") or model.get("family")
        facts.append(f"{what} at {model.get('imgsz')} px")
    for key in ("data", "device"):
        group = run.config.get(key)
        if isinstance(group, dict) and group.get("name"):
            facts.append(f"{key}: {group['name']}")
    return f'<header><h1>{text(run.recipe)}</h1><p class="soft">{text("  ·  ".join(facts))}</p></header>'


def _banner(run: Run) -> str:
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
    style = page.tone(met) if judged or met is False else "open"
    said = f"{', '.join(detail)}" if detail else "No limit was set for this run."
    return f'<div class="banner {style}"><b>{text(words.headline(verdict))}</b><p>{text(said)}</p></div>'


def _tiles(rows: Sequence[Row]) -> str:
    start, torch = start_of(rows), torch_rows(rows)
    tiles = _torch_tiles(rows, start, torch[-1]) if start is not None and torch[-1] is not start else []
    tiles += _speed_tiles(rows)
    made = (
        f'<div class="tile"><span>{text(a)}</span><strong>{text(b)}</strong><span>{text(c)}</span></div>'
        for a, b, c in tiles
    )
    return f'<div class="tiles">{"".join(made)}</div>' if tiles else ""


def _torch_tiles(rows: Sequence[Row], start: Row, last: Row) -> list[tuple[str, str, str]]:
    tiles = []
    for label, name, show in (("GFLOPs", "flops", words.giga), ("Parameters, M", "params", words.mega)):
        old, new = number(start.get(name)), number(last.get(name))
        if old and new is not None:
            tiles.append((label, f"{show(old)} → {show(new)}", f"{words.signed(100 * (new / old - 1), 1)} %"))
    change = change_from_start(rows, last).accuracy
    if change is not None:
        a, b = part(start, "accuracy"), part(last, "accuracy")
        label = f"{a.get('metric') or 'accuracy'}, torch"
        how = "" if b.get("obtained") == "measured" else f" ({b.get('obtained')})"
        said = f"{words.signed(change)} points on {b.get('images')} images{how}"
        tiles.append((label, f"{a['value']:.4f} → {b['value']:.4f}", said))
    return tiles


def _speed_tiles(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """The fastest final row of each runtime and device that has a loaded row to compare with."""
    best: dict[tuple[str, str], tuple[float, Change, Row]] = {}
    for row in (row for row in rows if row["stage"] not in BASELINES):
        change = change_from_start(rows, row)
        key = (words.target_name(row), str(part(row, "latency_ms").get("device")))
        if change.latency is not None and row.get("target") and (key not in best or change.latency <= best[key][0]):
            best[key] = (change.latency, change, row)
    return [
        (
            f"{target} on {device}, ms",
            f"{words.latency(row)}",
            f"{words.times(change)} of the baseline, {row.get('precision')} file",
        )
        for (target, device), (_, change, row) in best.items()
    ]


def _checks(run: Run) -> str:
    rows = []
    for check in (run.verdict or {}).get("checks") or []:
        value, limit = words.against(check.get("value"), check.get("limit"))
        where = "/".join(str(check[name]) for name in ("target", "precision") if check.get(name))
        met = check.get("met")
        cells = (check.get("name"), where or words.NONE, value, limit, check.get("unit") or "")
        rows.append([page.tag(met, words.MARKS[met].lower()), *(text(cell) for cell in cells)])
    return page.plain_table(("", "limit on", "target", "found", "at most", "unit"), rows, frozenset({3, 4}))


def _remarks(run: Run) -> str:
    return _list([str(remark.get("text")) for remark in (run.verdict or {}).get("remarks") or []])


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(item)}</li>' for item in items)}</ul>" if items else ""


def _waterfall(rows: Sequence[Row]) -> str:
    flops = "Of the fused graph as deployed, 1 MAC = 2 FLOPs. Quantization leaves FLOPs as they are."
    bits = "MACs × weight bits × activation bits: what quantization makes cheaper. It is no latency."
    return page.pair(
        ("GFLOPs", plots.waterfall(rows, "flops", "GFLOPs"), flops),
        ("Bit operations", plots.waterfall(rows, "bit_operations", "G bit ops"), bits),
    )


def _trade_offs(rows: Sequence[Row]) -> str:
    flops, note = plots.accuracy_against_flops(rows)
    charts = [("Accuracy against FLOPs", flops, note)]
    for device in plots.devices(rows):
        charts.append((f"Accuracy against latency, {device}", plots.accuracy_against_latency(rows, device), ""))
    shown = page.pair(*charts)
    return shown + _legend(rows) if shown else ""


def _legend(rows: Sequence[Row]) -> str:
    names = {words.target_name(row): plots.colour(row) for row in rows}
    items = [f'<span><i class="f-{colour}"></i>{text(name)}</span>' for name, colour in names.items()]
    items.append("<span>● fp32  ◆ fp16  ■ int8  ○ hollow: not measured</span><span>bars: 95 % interval</span>")
    return f'<div class="legend">{"".join(items)}</div>'


def _before_after(rows: Sequence[Row]) -> str:
    note = "×: against the baseline in the same runtime. Last: the precision the runtime computed in."
    charts = [
        (f"Median latency, {device} (ms)", plots.latency_bars(rows, device), note) for device in plots.devices(rows)
    ]
    sizes = ("Size of the files the runtime needs", plots.size_bars(rows), "")
    return page.pair(*charts[:1], sizes, *charts[1:])


def _more(rows: Sequence[Row]) -> str:
    head = (
        "stage",
        "target",
        "",
        "px",
        "other MFLOPs",
        "bit operations G",
        "bytes moved M",
        "peak activations MB",
        "energy mJ",
        "accuracy images",
        "map50",
        "runs",
    )
    return page.plain_table(head, [_more_row(row) for row in rows], frozenset(range(3, 12))) if rows else ""


def _more_row(row: Row) -> list[str]:
    scored, timed = part(row, "accuracy"), part(row, "latency_ms")
    map50 = number(scored.get("map50"))
    cells = (
        row["stage"],
        words.target_name(row),
        row.get("precision") or words.NONE,
        row.get("imgsz") or words.NONE,
        words.mega(row.get("other_flops")),
        words.giga(row.get("bit_operations"), 1),
        words.mega(row.get("bytes_moved")),
        words.mega(row.get("activation_bytes")),
        words.energy(row),
        scored.get("images") or words.NONE,
        words.NONE if map50 is None else f"{map50:.4f}",
        timed.get("runs") or words.NONE,
    )
    return [text(cell) for cell in cells]


def _pruning(found: Mapping[str, Any]) -> str:
    """Channels of each layer before and after, and what kept its channels and why."""
    if not found:
        return ""
    channels, protected = found.get("channels") or {}, found.get("protected") or {}
    note = f"{len(channels)} layers are narrower"
    if found.get("reachable"):
        least, most = (words.giga(2 * macs) for macs in found["reachable"])
        note += f"; between {least} and {most} GFLOPs could be reached"
    narrower = [
        [text(layer), str(before), str(after), f"{after / before:.0%}"] for layer, (before, after) in channels.items()
    ]
    beyond = found.get("out_of_reach") or {}  # FLOPs by module
    kept = [
        [text(module), text(why), f"{beyond.get(module, 0) / 1e6:.1f}"]
        for module, why in sorted(protected.items(), key=lambda item: -beyond.get(item[0], 0))
    ]
    return (
        page.note_line(f"{note}. {len(kept)} modules kept their channels:")
        + (page.plain_table(("module", "why", "MFLOPs out of reach"), kept, frozenset((2,))) if kept else "")
        + page.plain_table(("layer", "channels before", "after", "kept"), narrower, frozenset((1, 2, 3)))
    )


def _quantization(found: Mapping[str, Any]) -> str:
    """Every candidate that was tried for a target, and which one was taken."""
    rows = []
    for tried in found.get("candidates") or []:
        layers, took = tried.get("layers_kept") or [], tried.get("latency_ms")
        cells = [str(tried.get("target")), str(tried.get("scheme")), str(len(layers) or words.NONE)]
        cells += [f"{tried['accuracy']:.4f}", f"{tried['drop']:.4f}", words.mega(tried.get("size_bytes"))]
        cells += [words.NONE if took is None else f"{took:.2f}", f"{tried['seconds']:.0f}"]
        rows.append([page.tag(True, "taken") if tried.get("chosen") else "", *(text(cell) for cell in cells)])
    if not rows:
        return ""
    head = (
        "",
        "target",
        "scheme",
        "more layers in float",
        "accuracy",
        "below FP32",
        "size MB",
        "latency ms",
        "seconds",
    )
    note = (
        "Accuracy on the calibration images, which come from the training split: the validation split is for judging "
        "what was taken. Times are of candidates in turns, where this machine is the device."
    )
    return page.note_line(note) + page.plain_table(head, rows, frozenset(range(3, 9)))


def _artifacts(run: Run) -> str:
    rows = []
    for target, manifest in run.manifests.items():
        versions, files = manifest.get("versions"), manifest.get("files")
        said = ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else str(versions or "")
        for path, digest in files.items() if isinstance(files, dict) else ():
            rows.append([text(target), text(path), f"<code>{text(str(digest)[:16])}…</code>", text(said)])
            said = ""
    return page.plain_table(("target", "file", "sha256", "made with"), rows) if rows else ""
