"""Reads a run folder: `config.yaml`, `ledger.jsonl`, `verdict.json`, `pruning.json`, `quantization.json`, manifests."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from compress.errors import UserError

SCHEMA_VERSION = 1
FIELD_TYPES = {"target": str, "precision": str, "accuracy": dict, "latency_ms": dict}  # or null

Row = dict[str, Any]
"""One ledger row as written (`compress.ledger.Row.as_dict`). Any field except `stage` may be null or absent."""


@dataclass(frozen=True)
class Run:
    """Contents of a run folder.

    `verdict` is None until the run has been judged, `pruning` and `quantization` are empty without their stage,
    `manifests` are keyed by target, and `notes` name missing or incomplete files.
    """

    folder: Path
    rows: list[Row]
    config: dict[str, Any]
    config_text: str
    verdict: dict[str, Any] | None
    manifests: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    pruning: dict[str, Any] = field(default_factory=dict)
    quantization: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`<recipe>/<date_time>`, the last two parts of the path."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def recipe(self) -> str:
        return str(self.config.get("recipe_name") or self.folder.resolve().parent.name)


def number(value: Any) -> float | None:
    """`value` if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        converted = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return None
    return converted if math.isfinite(converted) else None


def part(row: Row, name: str) -> dict[str, Any]:
    """The object `row[name]`; empty if it is null or absent."""
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def read_run(folder: Path) -> Run:
    """Read everything that the report needs.

    Raises:
        UserError: `folder` is not a run folder, or one of its files is damaged (named, with the line of a ledger).
    """
    ledger = folder / "ledger.jsonl"
    if not ledger.is_file():
        raise UserError("run", folder, "no ledger.jsonl in it: name a run folder, outputs/<recipe>/<date_time>")
    rows, notes = read_ledger(ledger)
    config, text = read_config(folder / "config.yaml")
    if not text:
        notes.append("config.yaml is missing: the configuration of this run is unknown.")
    verdict = read_object(folder / "verdict.json")
    if verdict is None:
        notes.append("verdict.json is missing: the run has not finished, or it stopped before it was judged.")
        state = read_object(folder / "state.json") or {}
        if "stage" in state:
            status = f"state.json: {state.get('status')} in stage {state['stage']}, since {state.get('since')}."
            notes.append(f"{status} If its process has ended, the same command resumes the run in this folder.")
    paths = sorted((folder / "artifacts").glob("*/manifest.json"))
    manifests = {path.parent.name: read_object(path) or {} for path in paths}
    records = (read_object(folder / f"{name}.json") or {} for name in ("pruning", "quantization"))
    return Run(folder, rows, config, text, verdict, manifests, notes, *records)


def read_ledger(path: Path) -> tuple[list[Row], list[str]]:
    """Read the rows of a ledger, and notes for the reader of the report.

    A crash can truncate the last line: if that line has no newline and cannot be parsed, it is ignored with a note.

    Raises:
        UserError: another line is not a ledger row; the line number is in the message.
    """
    text = path.read_bytes().decode("utf-8", errors="replace")
    rows: list[Row] = []
    lines = text.split("\n")
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_parse_row(line))
        except (ValueError, RecursionError) as error:
            if line_number == len(lines):  # no newline after it: the write was interrupted
                return rows, [f"ledger.jsonl: the last line ({line_number}) is cut short and was ignored."]
            remedy = f"line {line_number} is not a ledger row ({error}): restore the file or remove the line"
            raise UserError(str(path), f"line {line_number}", remedy) from error
    return rows, [] if rows else ["ledger.jsonl has no rows yet."]


def _parse_row(line: str) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("stage"), str):
        raise ValueError("no `stage`")
    if row.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise ValueError(f"schema_version {row['schema_version']}, this program reads {SCHEMA_VERSION}")
    for name, kind in FIELD_TYPES.items():
        if not isinstance(row.get(name), kind | None):
            raise ValueError(f"`{name}` is of type {type(row[name]).__name__}")
    return row


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """Read a composed configuration as plain objects and as text; ({}, "") if the file is missing.

    Raises:
        UserError: the file is not YAML or not a configuration.
    """
    if not path.is_file():
        return {}, ""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        loaded = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise UserError(str(path), "unreadable", f"not a configuration: {error}") from error
    except Exception as error:  # errors of the YAML parser and of OmegaConf share no public base class
        if type(error).__module__.startswith("yaml"):
            raise UserError(str(path), "unreadable", f"not YAML: {error}") from error
        raise
    return ({str(k): v for k, v in loaded.items()} if isinstance(loaded, dict) else {}), text


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if the file is missing.

    Raises:
        UserError: the file holds anything else.
    """
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(str(path), "unreadable", f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(str(path), type(value).__name__, "expected a JSON object")
    return value
