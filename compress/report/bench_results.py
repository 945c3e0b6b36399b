"""Adds a latency measured on a device to the ledger of the run that produced the files, and judges the run again. A
measurement is accepted only if the checksums of its files are those in the manifests of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path, PurePosixPath

from compress import atomic, ledger, typed_json
from compress import config as configuration
from compress.budget import Verdict, judge
from compress.budget.selection import plain
from compress.devices import measured, operators
from compress.devices.measured import Measurement
from compress.errors import UserError
from compress.ledger import SCHEMA_VERSION, Energy, Latency, Provenance, Row
from compress.report.run_reader import Run, read_run

MIN_VALUE, MAX_VALUE = 1e-6, 1e9  # of latencies (ms) and numbers of runs: 1 ns to 11 days
MAX_NAME_LENGTH = 200
MAX_WATTS = 1e4
MAX_ACCURACY_LOSS = 0.1  # on the few shipped images: a larger one means that the device computes something else
REMEDY = "run the bench kit again"


@dataclass(frozen=True)
class Timing:
    """Latency of one image in milliseconds."""

    median: float
    p95: float
    runs: int
    drift: float | None = None  # these are absent in results of older bench kits
    celsius: float | None = None
    throttled: bool | None = None


@dataclass(frozen=True)
class Labelled:
    """Accuracy on the shipped images, in [0, 1]: on the device, and on the machine that exported the file."""

    value: float
    expected: float
    metric: str = ""

    @property
    def quality(self) -> str:
        return "agreement" if self.metric.startswith(ledger.AGREEMENT) else "accuracy"


@dataclass(frozen=True)
class Bench:
    """What the bench kit of an artifact writes."""

    schema_version: int
    target: str
    precision: str
    device: str
    runtime: str
    threads: int | None  # None for GPU runtimes
    batch: int
    latency_ms: Timing
    peak_memory_bytes: int | None
    files: Mapping[str, str]  # SHA-256 by path
    outputs_match: bool
    inference_precision: str | None = None
    labelled_images: Labelled | None = None  # absent in results of older bench kits
    watts: float | None = None  # mean power while the model ran
    watts_source: str | None = None


def add(folder: Path, bench: Path) -> tuple[Row, Verdict | None]:
    """Append a row (stage `export`, latency measured on the named device) to the ledger of the run in `folder`, and
    judge the run by all its rows. Acceptance checks of artifacts and lasting remarks are kept from the old verdict.
    Returns the new row, and the new verdict, which is also written; None if the run has not been judged before.

    Raises:
        UserError: no such run, missing or wrong fields in `bench`, files of another run, outputs that did not match
            on the device, a measurement that is in the ledger already, or a damaged file in the run. Ledger and
            verdict are then unchanged.
    """
    run = read_run(folder)
    result = typed_json.read(Bench, bench, REMEDY)
    _check_values(result, bench)
    _check_files(run, result, bench)
    row = _row(run, result)
    artifact_and_latency = attrgetter("target", "precision", "latency_ms")
    if artifact_and_latency(row) in map(artifact_and_latency, run.rows):
        raise UserError(str(bench), result.device, "this measurement is in the ledger already")
    verdict = _judge(run, [*run.rows, row])
    path = folder / "ledger.jsonl"
    # The whole file is replaced, without a last line that was interrupted; other lines keep what only they contain.
    lines = [line.rstrip("\n") for line in ledger.lines(path).values()][: len(run.rows)]
    run_id = json.loads(lines[-1]).get("run_id", folder.name)
    atomic.write(path, "\n".join([*lines, json.dumps(row.as_dict(run_id))]) + "\n")
    if verdict is not None:
        atomic.write(folder / "verdict.json", json.dumps(verdict.as_dict(), indent=1))
    return row, verdict


def calibrate(folder: Path, row: Row) -> Path | None:
    """Stores the latency of a row that `add` has appended with the measurements of its device, so that predictions for
    the device use it. Returns the file; None if the run has no list of operators, or the name of the device cannot be
    that of a profile. Raises UserError if the folder of the measurements cannot be written."""
    path, latency = folder / "artifacts" / operators.FILE, row.latency_ms
    device, runtime, ms = (latency.device, latency.runtime, latency.median) if latency else (None, None, None)
    if latency is None or device is None or runtime is None or ms is None or row.target is None:
        return None
    if not measured.DEVICE.fullmatch(plain(device)) or not path.is_file():
        return None
    try:
        network = [each for listed in operators.read(path).values() for each in listed]
    except (KeyError, ValueError) as error:
        raise UserError(str(path), "damaged", f"{error}: run the recipe again") from error
    absolute = folder.absolute()
    timed = [(f"{absolute.parent.name}/{absolute.name}", ms, network)]
    return measured.add(Measurement.of(plain(device), row.target, row.precision, latency.threads, runtime, timed))


def _judge(run: Run, rows: list[Row]) -> Verdict | None:
    if run.verdict is None:
        return None
    config, path = configuration.read(run.folder), run.folder / "controls.jsonl"
    controls = ledger.read(path) if path.is_file() else []
    checks = [each for each in run.verdict.checks if each.name.startswith("contract.")]
    lasting = [each for each in run.verdict.remarks if each.lasting]
    limit = config.quantize.max_accuracy_drop
    try:
        verdict = judge(config.budget, limit, rows, run.verdict.failures, config.device, controls, checks)
    except IndexError as error:
        remedy = "it has no torch row of the baseline: run the recipe again"
        raise UserError("run", run.folder / "ledger.jsonl", remedy) from error
    return replace(verdict, remarks=(*verdict.remarks, *lasting))


def _check_values(result: Bench, path: Path) -> None:
    """Raises UserError for values that no device can have measured, and for a device that computes something else."""
    timing, labelled = result.latency_ms, result.labelled_images or Labelled(1.0, 1.0)
    one_line = f"name it in one line of at most {MAX_NAME_LENGTH} printable characters"
    positive = f"expected a positive number up to {MAX_VALUE:.0e}"
    portable = (
        f"{labelled.quality} on the shipped images is {labelled.value:.3f} on the device, {labelled.expected:.3f} on "
        "the exporting machine: INT8 sums may saturate on the device; export with quantize.portable=true"
    )
    other = "the outputs on the device differ from the recorded ones: this latency is of another computation"
    local, version = result.device.split()[:1] == ["host"], result.schema_version
    names = {name: getattr(result, name) for name in ("target", "precision", "device", "runtime")}
    times = {name: getattr(timing, name) for name in ("median", "p95", "runs")}
    counts = {name: getattr(result, name) for name in ("batch", "threads", "peak_memory_bytes")}
    rules: list[tuple[bool, str, object, str]] = [  # (good, field, value, remedy)
        (version == SCHEMA_VERSION, "schema_version", version, f"this program reads {SCHEMA_VERSION}"),
        *((_is_name(text), name, repr(text[:40]), one_line) for name, text in names.items()),
        (not local, "device", result.device, "name the device; `host` is the machine of the run"),
        *((MIN_VALUE <= v <= MAX_VALUE, f"latency_ms.{name}", v, positive) for name, v in times.items()),
        *((v is None or v > 0, name, v, "expected a positive number") for name, v in counts.items()),
        (result.watts is None or 0 < result.watts < MAX_WATTS, "watts", result.watts, "expected a positive number"),
        (timing.p95 >= timing.median, "latency_ms.p95", timing.p95, f"is below the median, {timing.median}"),
        (0 <= labelled.value <= 1, "labelled_images.value", labelled.value, "expected a number in [0, 1]"),
        (0 <= labelled.expected <= 1, "labelled_images.expected", labelled.expected, "expected a number in [0, 1]"),
        (labelled.value >= labelled.expected - MAX_ACCURACY_LOSS, "labelled_images", labelled.value, portable),
        (result.outputs_match, "outputs_match", "false", other),
    ]
    for good, name, value, remedy in rules:
        if not good:
            raise UserError(f"{path}: {name}", value, remedy)


def _is_name(text: str) -> bool:
    return bool(text.strip()) and len(text) <= MAX_NAME_LENGTH and text.isprintable()


def _check_files(run: Run, result: Bench, path: Path) -> None:
    manifest = run.manifests.get(result.target)
    if manifest is None:
        targets = ", ".join(run.manifests) or "none"
        raise UserError(f"{path}: target", result.target, f"this run has no such artifact (it has: {targets})")
    if not result.files:
        raise UserError(f"{path}: files", "empty", "the checksums of the timed files are required")
    for name, digest in result.files.items():
        if manifest.files.get(name) != digest:
            difference = "has another checksum than in" if name in manifest.files else "is not in"
            remedy = f"{name} {difference} artifacts/{result.target}/manifest.json: time the files of this run"
            raise UserError(f"{path}: files", digest, remedy)
        folder = PurePosixPath(name).parts[0].split("_")[0]  # int8/model.onnx, int8_openvino_model/model.xml
        if folder in ("fp32", "fp16", "int8") and folder != result.precision:
            raise UserError(f"{path}: precision", result.precision, f"{name} is the {folder} file")


def _row(run: Run, result: Bench) -> Row:
    """The ledger row of the same file with the latency of the device; what the device did not measure is None."""
    artifact = (result.target, result.precision)
    rows = [row for row in run.rows if (row.target, row.precision) == artifact]
    if not rows:
        raise UserError("bench", " ".join(artifact), "the ledger has no row of this artifact")
    exported = next((row for row in reversed(rows) if row.stage in ("export", "quantize")), rows[-1])
    timing = result.latency_ms
    latency = Latency(
        timing.median, timing.p95, timing.runs, runtime=result.runtime, threads=result.threads, batch=result.batch,
        inference_precision=result.inference_precision, device=result.device, obtained=Provenance.measured,
        peak_memory_bytes=result.peak_memory_bytes, drift=timing.drift, celsius=timing.celsius,
        throttled=timing.throttled,
    )  # fmt: skip
    energy = None  # W x ms = mJ
    if result.watts is not None:
        energy = Energy(result.watts * timing.median, Provenance.measured, result.watts_source)
    return replace(
        exported, stage="export", cached=False, latency_ms=latency, energy_mj=energy,
        accuracy=None, thresholds={}, end_to_end_ms=None, roof_fraction=None, bytes_moved=None, activation_bytes=None,
    )  # fmt: skip
