"""Takes a measurement made on a device into the ledger of the run that made the files, and judges the run again.

The numbers count only if they were taken from this run's files, so the checksums decide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from compress import atomic, ledger
from compress import config as configuration
from compress.budget import Check, Remark, Verdict, judge
from compress.errors import UserError
from compress.report.chain import number, part
from compress.report.run import SCHEMA_VERSION, Row, Run, read_ledger, read_run

LEAST, MOST = 1e-6, 1e9  # milliseconds, and numbers of runs: a nanosecond to eleven days
MOST_BYTES = 2**50
MOST_LETTERS = 200  # of names
LOST = 0.1  # of the accuracy on a few images: more is another computation
FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema_version": int,
    "target": str,
    "precision": str,
    "device": str,
    "runtime": str,
    "threads": (int, type(None)),  # a GPU runtime has none to name
    "batch": int,
    "latency_ms": dict,
    "peak_memory_bytes": (int, type(None)),
    "files": dict,
    "outputs_match": bool,
}


def add(run: Path, bench: Path) -> tuple[Row, Verdict | None]:
    """Append a ledger row (stage `export`, latency measured on the device named) and judge the run again by all its
    rows. What artifacts were found to keep of their promises is not looked at again, nor the network itself.

    Returns:
        The row, and the new verdict, also written into the run; None for a run that was never judged.

    Raises:
        UserError: no such run, a bench file with missing or wrong fields, files that are not this run's,
            outputs that did not match on the device, a row that is in the ledger already, or a damaged file
            in the run. Ledger and verdict are then untouched.
    """
    found = read_run(run)
    facts = _read_bench(bench)
    _check_files(found, facts, bench)
    row = _row(found, facts)
    if any(_same(row, other) for other in found.rows):
        raise UserError(str(bench), facts["device"], "this measurement is in the ledger already")
    rows = [*found.rows, row]
    verdict = _judged(run, found, rows)
    # whole file and rename: a line that a crash cut short must not end up in the middle
    atomic.write(run / "ledger.jsonl", "\n".join(json.dumps(known) for known in rows) + "\n")
    if verdict is not None:
        atomic.write(run / "verdict.json", json.dumps(verdict.as_dict(), indent=1))
    return row, verdict


def _judged(folder: Path, run: Run, rows: list[Row]) -> Verdict | None:
    if run.verdict is None:
        return None
    config, controls = configuration.read(folder), folder / "controls.jsonl"
    others = read_ledger(controls)[0] if controls.is_file() else []
    try:
        contracts = [_known(Check, each) for each in run.verdict["checks"] if each["name"].startswith("contract.")]
        kept = [_known(Remark, each) for each in run.verdict["remarks"] if each.get("lasting")]
        weighed, beside = ([_known(ledger.Row, each) for each in known] for known in (rows, others))
        failures = dict(run.verdict["failures"])
        limit = config.quantize.max_accuracy_drop
        verdict = judge(config.budget, limit, weighed, failures, config.device, beside, contracts)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        why = f"a file in it is damaged ({type(error).__name__}: {error}): run the recipe again"
        raise UserError("run", folder, why) from error
    return replace(verdict, remarks=(*verdict.remarks, *kept))


def _known(kind: Any, facts: Mapping[str, Any]) -> Any:
    """A dataclass from an object of a run's file, which also holds what the dataclass computes."""
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in facts.items() if name in names})


def _read_bench(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError("bench", path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError("bench", path, f"not JSON: {error}") from error
    if not isinstance(facts, dict):
        raise UserError("bench", path, "expected the JSON object that the artifact's bench kit prints")
    for name, kind in FIELDS.items():
        value = facts.get(name)
        if name not in facts or not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UserError(
                f"{path}: {name}", facts.get(name, "absent"), f"expected {_named(kind)}: rerun the bench kit"
            )
    _check_values(facts, path)
    return facts


def _check_values(facts: dict[str, Any], path: Path) -> None:
    if facts["schema_version"] != SCHEMA_VERSION:
        raise UserError(f"{path}: schema_version", facts["schema_version"], f"this program reads {SCHEMA_VERSION}")
    for name in ("target", "precision", "device", "runtime"):
        if not facts[name].strip():
            raise UserError(f"{path}: {name}", "empty", "name it: a latency without it means nothing")
        if len(facts[name]) > MOST_LETTERS or not facts[name].isprintable():
            remedy = f"expected a name on one line, of at most {MOST_LETTERS} letters"
            raise UserError(f"{path}: {name}", repr(facts[name][:40]), remedy)
    if facts["device"].split()[0] == "host":
        raise UserError(f"{path}: device", facts["device"], "name the device; `host` is the machine the run was on")
    timing = facts["latency_ms"]
    for name in ("median", "p95", "runs"):
        value = number(timing.get(name))
        if value is None or not LEAST <= value <= MOST:
            said = str(timing.get(name, "absent"))[:40]
            raise UserError(f"{path}: latency_ms.{name}", said, f"expected a positive number up to {MOST:.0e}")
    if timing["p95"] < timing["median"]:
        raise UserError(f"{path}: latency_ms.p95", timing["p95"], f"is below the median, {timing['median']}")
    for name in ("batch", "threads", "peak_memory_bytes"):
        if facts[name] is not None and not 0 < facts[name] <= MOST_BYTES:
            raise UserError(f"{path}: {name}", str(facts[name])[:40], f"expected a positive number up to {MOST_BYTES}")
    labelled = facts.get("labelled_images")
    if labelled is not None:  # kits of older versions have none
        _check_labelled(labelled, path)
    if not facts["outputs_match"]:
        remedy = "the outputs on the device differ from the recorded ones: this latency is of another computation"
        raise UserError(f"{path}: outputs_match", "false", remedy)


def _check_labelled(labelled: object, path: Path) -> None:
    """Raises UserError where the device does worse on the shipped images than the machine that made the file."""
    found = {key: number(labelled.get(key)) for key in ("value", "expected")} if isinstance(labelled, dict) else {}
    value, expected = found.get("value"), found.get("expected")
    if value is None or expected is None or not (0 <= value <= 1 and 0 <= expected <= 1):
        remedy = "expected an object with value and expected, in [0, 1]: rerun the bench kit"
        raise UserError(f"{path}: labelled_images", str(labelled)[:40], remedy)
    if value < expected - LOST:
        remedy = (
            f"on the shipped images the device has {value:.3f}, the machine that made the file {expected:.3f}: "
            "INT8 sums may saturate there; export with quantize.portable=true"
        )
        raise UserError(f"{path}: labelled_images", f"{value:.3f}", remedy)


def _check_files(run: Run, facts: dict[str, Any], path: Path) -> None:
    manifest = run.manifests.get(facts["target"])
    if manifest is None:
        known = ", ".join(run.manifests) or "none"
        raise UserError(f"{path}: target", facts["target"], f"this run has no such artifact (it has: {known})")
    files = manifest.get("files")
    recorded = files if isinstance(files, dict) else {}
    if not facts["files"]:
        raise UserError(f"{path}: files", "empty", "the checksums of the files that were timed are needed")
    for name, digest in facts["files"].items():
        if recorded.get(name) != digest:
            why = "has another checksum than" if name in recorded else "is not in"
            remedy = f"{name} {why} artifacts/{facts['target']}/manifest.json: time this run's own files"
            raise UserError(f"{path}: files", digest, remedy)
        folder = PurePosixPath(name).parts[0].split("_")[0]  # int8/model.onnx, int8_openvino_model/model.xml
        if folder in ("fp32", "fp16", "int8") and folder != facts["precision"]:
            raise UserError(f"{path}: precision", facts["precision"], f"{name} is the {folder} file")


def _row(run: Run, facts: dict[str, Any]) -> Row:
    """What is known of the same file stays known; what the device did not measure is null."""
    mine = [r for r in run.rows if (r.get("target"), r.get("precision")) == (facts["target"], facts["precision"])]
    kept = next((r for r in reversed(mine) if r["stage"] in ("export", "quantize")), mine[-1] if mine else None)
    if kept is None:
        raise UserError("bench", f"{facts['target']} {facts['precision']}", "the ledger has no row of this artifact")
    timing = facts["latency_ms"]
    latency = {
        "median": timing["median"],
        "p95": timing["p95"],
        "runs": timing["runs"],
        "runtime": facts["runtime"],
        "threads": facts["threads"],
        "batch": facts["batch"],
        "inference_precision": facts.get("inference_precision"),
        "device": facts["device"],
        "obtained": "measured",
        "peak_memory_bytes": facts["peak_memory_bytes"],
    }
    unknown = {"accuracy": None, "energy_mj": None, "bytes_moved": None, "activation_bytes": None}
    return {**kept, **unknown, "stage": "export", "cached": False, "latency_ms": latency}


def _same(row: Row, other: Row) -> bool:
    names = ("target", "precision")
    return all(row.get(n) == other.get(n) for n in names) and part(row, "latency_ms") == part(other, "latency_ms")


def _named(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    words = {
        dict: "an object",
        str: "a text",
        int: "a whole number",
        bool: "true or false",
        type(None): "null",
    }
    return " or ".join(words[k] for k in kinds)
