"""Reads a run folder: `config.yaml`, `ledger.jsonl`, `verdict.json`, `pruning.json`, `quantization.json`, manifests,
`metrics.jsonl`, `layer_times.json`, `drawings/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from compress import ledger, typed_json
from compress.budget import Verdict
from compress.errors import UserError, one_line
from compress.ledger import Row
from compress.typed_json import AnyFloat

T = TypeVar("T")


@dataclass(frozen=True)
class Pruning:
    """`pruning.json`. Keys are module names."""

    channels: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # before and after, of narrowed layers
    protected: Mapping[str, str] = field(default_factory=dict)  # why a module kept all channels
    out_of_reach: Mapping[str, float] = field(default_factory=dict)  # FLOPs left in protected modules at the least MACs
    reachable: tuple[float, float] | None = None  # least and most MACs of the network
    layer_macs: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # before and after; absent in older runs
    layer_milliseconds: Mapping[str, float] = field(default_factory=dict)  # with `prune.objective=latency`


@dataclass(frozen=True)
class LayerTimes:
    """`layer_times.json`: milliseconds of each layer before and after pruning."""

    device: str
    target: str
    precision: str
    obtained: str
    milliseconds: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Candidate:
    """A graph that the search for an INT8 graph tried. Accuracies in [0, 1] on the calibration images."""

    target: str
    scheme: str
    accuracy: float
    drop: float
    seconds: float
    layers_kept: tuple[str, ...] = ()
    size_bytes: int | None = None
    latency_ms: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Quantization:
    """`quantization.json`."""

    candidates: tuple[Candidate, ...] = ()
    sensitivity: Mapping[str, AnyFloat] = field(default_factory=dict)  # error by layer, if the search computed it


@dataclass(frozen=True)
class ExportedModel:
    """The file of one precision, relative to the folder of its artifact."""

    model: str


@dataclass(frozen=True)
class Manifest:
    """`manifest.json` of an artifact: SHA-256 of its files, by path, versions of the software, by package, and the
    models, by precision."""

    files: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, ExportedModel] = field(default_factory=dict)


@dataclass(frozen=True)
class Disagreement:
    """An image on which a file disagrees with the baseline: JPEG files and agreement in [0, 1] of each column; None for
    labels and baseline."""

    files: tuple[str, ...]
    agreement: tuple[float | None, ...]


@dataclass(frozen=True)
class Drawings:
    """`drawings/index.json`: names of the columns, and of the JPEG file in each, by image. `agreement` is the mean of
    each column over the `compared` images."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    worst: tuple[Disagreement, ...] = ()
    compared: int = 0
    agreement: tuple[float | None, ...] = ()
    definition: str = ""


@dataclass(frozen=True)
class TrainingPoint:
    """A line of `metrics.jsonl`."""

    training: str
    step: int
    loss: float
    learning_rate: float
    task_loss: float | None = None
    distillation_loss: float | None = None
    images_per_second: float | None = None


@dataclass(frozen=True)
class State:
    """`state.json`: how far an unfinished run came."""

    status: str
    since: str
    stage: str | None = None


@dataclass(frozen=True)
class Run:
    """Contents of a run folder. `verdict` is None until the run has been judged, `manifests` are keyed by target, and
    `notes` name missing or incomplete files."""

    folder: Path
    rows: list[Row]
    config: dict[str, Any]
    config_text: str
    verdict: Verdict | None
    manifests: dict[str, Manifest]
    notes: list[str]
    pruning: Pruning
    layer_times: LayerTimes | None
    quantization: Quantization
    drawings: Drawings
    training: list[TrainingPoint]
    controls: list[Row]  # of `compress.controls`, by stage

    @property
    def name(self) -> str:
        """`<recipe>/<date_time>`, the last two parts of the path."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def recipe(self) -> str:
        return str(self.config.get("recipe_name") or self.folder.resolve().parent.name)

    @property
    def command(self) -> str:
        """The command that made the run; "" if it was not the command line, or an older version."""
        first = self.config_text.partition("\n")[0]
        return first.removeprefix("# ") if first.startswith("# ") else ""

    @property
    def device(self) -> str:
        """Name of the deployment device."""
        group = self.config.get("device")
        return str((group.get("name") if isinstance(group, dict) else None) or "host")


def read_run(folder: Path) -> Run:
    """Read everything that the report needs. Raises UserError if `folder` is not a run folder, or one of its files is
    damaged (named, with the line of a ledger)."""
    path, notes = folder / "ledger.jsonl", []
    if not path.is_file():
        raise UserError("run", folder, "no ledger.jsonl in it: name a run folder, outputs/<recipe>/<date_time>")
    rows, lines = ledger.read(path), ledger.lines(path)
    if not lines:
        notes.append("ledger.jsonl has no rows yet.")
    if len(rows) < len(lines):
        notes.append("ledger.jsonl: the last line is cut short and was ignored.")
    config, text = read_config(folder / "config.yaml")
    if not text:
        notes.append("config.yaml is missing: the configuration of this run is unknown.")
    verdict = read_file(Verdict, folder / "verdict.json")
    if verdict is None:
        notes.append("verdict.json is missing: the run has not finished, or it stopped before it was judged.")
        state = read_file(State, folder / "state.json")
        if state and state.stage:
            status = f"state.json: {state.status} in stage {state.stage}, since {state.since}."
            notes.append(f"{status} If its process has ended, the same command resumes the run in this folder.")
    paths = sorted((folder / "artifacts").glob("*/manifest.json"))
    manifests = {path.parent.name: typed_json.read(Manifest, path) for path in paths}
    pruning = read_file(Pruning, folder / "pruning.json") or Pruning()
    quantization = read_file(Quantization, folder / "quantization.json") or Quantization()
    drawings = read_file(Drawings, folder / "drawings" / "index.json") or Drawings()
    times = read_file(LayerTimes, folder / "layer_times.json")
    training, control = read_training(folder / "metrics.jsonl"), folder / "controls.jsonl"
    return Run(
        folder, rows, config, text, verdict, manifests, notes, pruning, times, quantization, drawings, training,
        ledger.read(control) if control.is_file() else [],
    )  # fmt: skip


def read_training(path: Path) -> list[TrainingPoint]:
    """Points of all trainings; none if there is no file. A last line that was cut off is omitted. A diverged training
    has losses that are not finite; its points without a finite loss are omitted too."""
    if not path.is_file():
        return []
    points = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), 1):
        if line.endswith("\n") and "NaN" not in line and "Infinity" not in line:
            points.append(typed_json.parse(TrainingPoint, line, f"{path}, line {number}"))
    return points


def read_file(kind: type[T], path: Path) -> T | None:
    """`typed_json.read`; None if the file is missing."""
    return typed_json.read(kind, path) if path.is_file() else None


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """The configuration as objects and as text; ({}, "") if it is missing. Raises UserError if it is not YAML."""
    if not path.is_file():
        return {}, ""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        loaded = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(str(path), "unreadable", f"not YAML: {one_line(error)}") from error
    return {str(k): v for k, v in loaded.items()} if isinstance(loaded, dict) else {}, text
