"""Reads a run folder: `config.yaml`, `ledger.jsonl`, `verdict.json`, what stages recorded, the artifacts' manifests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from compress.errors import UserError

SCHEMA_VERSION = 1

Row = dict[str, Any]
"""One ledger row, as written (`compress.ledger.Row`); any field but `stage` may be null or absent."""


@dataclass(frozen=True)
class Run:
    """What a run folder says. `verdict` is None while the run has not been judged (running, or crashed)."""

    folder: Path
    rows: list[Row]
    config: dict[str, Any]
    config_text: str
    verdict: dict[str, Any] | None
    manifests: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    pruning: dict[str, Any] = field(default_factory=dict)  # pruning.json, empty where nothing was pruned
    quantization: dict[str, Any] = field(default_factory=dict)  # quantization.json, likewise

    @property
    def name(self) -> str:
        """Recipe and date_time, as the folder names them."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def recipe(self) -> str:
        return str(self.config.get("recipe_name") or self.folder.resolve().parent.name)


def read_run(folder: Path) -> Run:
    """Everything the report needs.

    Raises:
        UserError: no such run, or a damaged file (names the file, and the line of a ledger).
    """
    ledger = folder / "ledger.jsonl"
    if not ledger.is_file():
        raise UserError("run", folder, "no ledger.jsonl there: use a run folder, outputs/<recipe>/<date_time>")
    rows, notes = read_ledger(ledger)
    config, text = read_config(folder / "config.yaml")
    if not text:
        notes.append("config.yaml is absent: the configuration of this run is not known.")
    verdict = read_object(folder / "verdict.json")
    if verdict is None:
        notes.append("verdict.json is absent: the run has not finished, or it stopped before it was judged.")
        state = read_object(folder / "state.json") or {}
        if "stage" in state:
            told = f"state.json: {state.get('status')} in stage {state['stage']}, since {state.get('since')}."
            notes.append(f"{told} Where its process has ended, the same command goes on in this folder.")
    found = sorted((folder / "artifacts").glob("*/manifest.json"))
    manifests = {path.parent.name: read_object(path) or {} for path in found}
    records = (read_object(folder / f"{name}.json") or {} for name in ("pruning", "quantization"))
    return Run(folder, rows, config, text, verdict, manifests, notes, *records)


def read_ledger(path: Path) -> tuple[list[Row], list[str]]:
    """The rows, and what to tell the reader about them.

    A crash can cut the last line short, so an unreadable last line without its newline is left out, with
    a note.

    Raises:
        UserError: any other line that is not a ledger row; the line is named.
    """
    text = path.read_bytes().decode("utf-8", errors="replace")
    rows: list[Row] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_row(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # no newline after it: the writer was cut off
                return rows, [f"ledger.jsonl: the last line ({number}) is cut short and was left out."]
            remedy = f"line {number} is not a ledger row ({error}): restore the file, or take that line out"
            raise UserError(str(path), f"line {number}", remedy) from error
    return rows, [] if rows else ["ledger.jsonl holds no rows yet."]


def _row(line: str) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("stage"), str):
        raise ValueError("no `stage`")
    if row.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise ValueError(f"schema_version {row['schema_version']}, this program reads {SCHEMA_VERSION}")
    for name in ("accuracy", "latency_ms"):
        if not isinstance(row.get(name), dict | None):
            raise ValueError(f"`{name}` is not an object")
    return row


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """The composed configuration as plain objects and as text; ({}, "") where there is none."""
    if not path.is_file():
        return {}, ""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        loaded = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise UserError(str(path), "unreadable", f"not a configuration: {error}") from error
    except Exception as error:  # the YAML parser's own errors share no public base with OmegaConf's
        if type(error).__module__.startswith("yaml"):
            raise UserError(str(path), "unreadable", f"not YAML: {error}") from error
        raise
    return ({str(k): v for k, v in loaded.items()} if isinstance(loaded, dict) else {}), text


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, None where there is no file. Raises UserError for anything else in it."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(str(path), "unreadable", f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(str(path), type(value).__name__, "expected a JSON object")
    return value
