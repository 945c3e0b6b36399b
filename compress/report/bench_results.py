"""Adds a latency measured on a device to the ledger of the run that produced the files, and judges the run again.

A measurement is accepted only if the checksums of its files are those in the manifests of the run.
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
from compress.report.run_reader import SCHEMA_VERSION, Row, Run, number, part, read_ledger, read_run

MIN_VALUE, MAX_VALUE = 1e-6, 1e9  # of latencies (ms) and numbers of runs: 1 ns to 11 days
MAX_INTEGER = 2**50
MAX_NAME_LENGTH = 200
MAX_ACCURACY_LOSS = 0.1  # on the few shipped images: a larger one means that the device computes something else
FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema_version": int,
    "target": str,
    "precision": str,
    "device": str,
    "runtime": str,
    "threads": (int, type(None)),  # null for GPU runtimes
    "batch": int,
    "latency_ms": dict,
    "peak_memory_bytes": (int, type(None)),
    "files": dict,
    "outputs_match": bool,
}
JSON_TYPES = {dict: "an object", str: "a string", int: "an integer", bool: "true or false", type(None): "null"}


def add(folder: Path, bench: Path) -> tuple[Row, Verdict | None]:
    """Append a row (stage `export`, latency measured on the named device) to the ledger of the run in `folder`, and
    judge the run by all its rows. Acceptance checks of artifacts and lasting remarks are kept from the old verdict.

    Args:
        folder: run folder.
        bench: JSON file written by the bench kit of an artifact.

    Returns:
        The new row, and the new verdict, which is also written; None if the run has not been judged before.

    Raises:
        UserError: no such run, missing or wrong fields in `bench`, files of another run, outputs that did not match
            on the device, a measurement that is in the ledger already, or a damaged file in the run. Ledger and
            verdict are then unchanged.
    """
    run = read_run(folder)
    result = _read_result(bench)
    _check_files(run, result, bench)
    row = _row(run, result)
    if any(_same(row, other) for other in run.rows):
        raise UserError(str(bench), result["device"], "this measurement is in the ledger already")
    rows = [*run.rows, row]
    verdict = _judge(run, rows)
    # The whole file is replaced, since the last line may have been truncated by a crash.
    atomic.write(folder / "ledger.jsonl", "\n".join(json.dumps(each) for each in rows) + "\n")
    if verdict is not None:
        atomic.write(folder / "verdict.json", json.dumps(verdict.as_dict(), indent=1))
    return row, verdict


def _judge(run: Run, rows: list[Row]) -> Verdict | None:
    if run.verdict is None:
        return None
    config, controls = configuration.read(run.folder), run.folder / "controls.jsonl"
    control_rows = read_ledger(controls)[0] if controls.is_file() else []
    try:
        checks = [_from_json(Check, each) for each in run.verdict["checks"] if each["name"].startswith("contract.")]
        remarks = [_from_json(Remark, each) for each in run.verdict["remarks"] if each.get("lasting")]
        typed, typed_controls = ([ledger.Row.from_dict(each) for each in file] for file in (rows, control_rows))
        failures = dict(run.verdict["failures"])
        max_drop = config.quantize.max_accuracy_drop
        verdict = judge(config.budget, max_drop, typed, failures, config.device, typed_controls, checks)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        remedy = f"a file in it is damaged ({type(error).__name__}: {error}): run the recipe again"
        raise UserError("run", run.folder, remedy) from error
    return replace(verdict, remarks=(*verdict.remarks, *remarks))


def _from_json(kind: Any, record: Mapping[str, Any]) -> Any:
    """A dataclass from a JSON object, without the keys of its computed properties."""
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in record.items() if name in names})


def _read_result(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError("bench", path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError("bench", path, f"not JSON: {error}") from error
    if not isinstance(result, dict):
        raise UserError("bench", path, "expected the JSON object that the bench kit of an artifact writes")
    for name, kind in FIELDS.items():
        value = result.get(name)
        if name not in result or not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            expected = " or ".join(JSON_TYPES[k] for k in (kind if isinstance(kind, tuple) else (kind,)))
            remedy = f"expected {expected}: run the bench kit again"
            raise UserError(f"{path}: {name}", result.get(name, "absent"), remedy)
    _check_values(result, path)
    return result


def _check_values(result: dict[str, Any], path: Path) -> None:
    if result["schema_version"] != SCHEMA_VERSION:
        raise UserError(f"{path}: schema_version", result["schema_version"], f"this program reads {SCHEMA_VERSION}")
    for name in ("target", "precision", "device", "runtime"):
        if not result[name].strip():
            raise UserError(f"{path}: {name}", "empty", f"name it: a latency without its {name} cannot be compared")
        if len(result[name]) > MAX_NAME_LENGTH or not result[name].isprintable():
            remedy = f"expected one line of at most {MAX_NAME_LENGTH} printable characters"
            raise UserError(f"{path}: {name}", repr(result[name][:40]), remedy)
    if result["device"].split()[0] == "host":
        raise UserError(f"{path}: device", result["device"], "name the device; `host` is the machine of the run")
    timing = result["latency_ms"]
    for name in ("median", "p95", "runs"):
        value = number(timing.get(name))
        if value is None or not MIN_VALUE <= value <= MAX_VALUE:
            text = str(timing.get(name, "absent"))[:40]
            raise UserError(f"{path}: latency_ms.{name}", text, f"expected a positive number up to {MAX_VALUE:.0e}")
    if timing["p95"] < timing["median"]:
        raise UserError(f"{path}: latency_ms.p95", timing["p95"], f"is below the median, {timing['median']}")
    for name in ("batch", "threads", "peak_memory_bytes"):
        if result[name] is not None and not 0 < result[name] <= MAX_INTEGER:
            remedy = f"expected a positive number up to {MAX_INTEGER}"
            raise UserError(f"{path}: {name}", str(result[name])[:40], remedy)
    labelled = result.get("labelled_images")
    if labelled is not None:  # absent in results of older bench kits
        _check_labelled(labelled, path)
    if not result["outputs_match"]:
        remedy = "the outputs on the device differ from the recorded ones: this latency is of another computation"
        raise UserError(f"{path}: outputs_match", "false", remedy)


def _check_labelled(labelled: object, path: Path) -> None:
    """Compare the accuracy on the shipped images with that of the machine that exported the file.

    Raises:
        UserError: not numbers in [0, 1], or a loss of more than `MAX_ACCURACY_LOSS`.
    """
    record = labelled if isinstance(labelled, dict) else {}
    value, expected = number(record.get("value")), number(record.get("expected"))
    if value is None or expected is None or not (0 <= value <= 1 and 0 <= expected <= 1):
        remedy = "expected an object with value and expected, in [0, 1]: run the bench kit again"
        raise UserError(f"{path}: labelled_images", str(labelled)[:40], remedy)
    if value < expected - MAX_ACCURACY_LOSS:
        remedy = (
            f"accuracy on the shipped images is {value:.3f} on the device, {expected:.3f} on the exporting machine: "
            "INT8 sums may saturate on the device; export with quantize.portable=true"
        )
        raise UserError(f"{path}: labelled_images", f"{value:.3f}", remedy)


def _check_files(run: Run, result: dict[str, Any], path: Path) -> None:
    manifest = run.manifests.get(result["target"])
    if manifest is None:
        targets = ", ".join(run.manifests) or "none"
        raise UserError(f"{path}: target", result["target"], f"this run has no such artifact (it has: {targets})")
    files = manifest.get("files")
    recorded = files if isinstance(files, dict) else {}
    if not result["files"]:
        raise UserError(f"{path}: files", "empty", "the checksums of the timed files are required")
    for name, digest in result["files"].items():
        if recorded.get(name) != digest:
            difference = "has another checksum than in" if name in recorded else "is not in"
            remedy = f"{name} {difference} artifacts/{result['target']}/manifest.json: time the files of this run"
            raise UserError(f"{path}: files", digest, remedy)
        folder = PurePosixPath(name).parts[0].split("_")[0]  # int8/model.onnx, int8_openvino_model/model.xml
        if folder in ("fp32", "fp16", "int8") and folder != result["precision"]:
            raise UserError(f"{path}: precision", result["precision"], f"{name} is the {folder} file")


def _row(run: Run, result: dict[str, Any]) -> Row:
    """The ledger row of the same file with the latency of the device; what the device did not measure is null."""
    artifact = (result["target"], result["precision"])
    rows = [r for r in run.rows if (r.get("target"), r.get("precision")) == artifact]
    if not rows:
        raise UserError("bench", " ".join(artifact), "the ledger has no row of this artifact")
    exported = next((r for r in reversed(rows) if r["stage"] in ("export", "quantize")), rows[-1])
    latency = {name: result["latency_ms"][name] for name in ("median", "p95", "runs")}
    latency |= {name: result[name] for name in ("runtime", "threads", "batch")}
    latency |= {"inference_precision": result.get("inference_precision"), "device": result["device"]}
    latency |= {"obtained": "measured", "peak_memory_bytes": result["peak_memory_bytes"]}
    unknown = {"accuracy": None, "energy_mj": None, "bytes_moved": None, "activation_bytes": None}
    return {**exported, **unknown, "stage": "export", "cached": False, "latency_ms": latency}


def _same(row: Row, other: Row) -> bool:
    names = ("target", "precision")
    return all(row.get(n) == other.get(n) for n in names) and part(row, "latency_ms") == part(other, "latency_ms")
