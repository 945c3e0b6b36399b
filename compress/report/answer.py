"""The answer of a run: the file to deploy for each runtime, its figures, and how to run it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from compress.budget.selection import to_deploy
from compress.ledger import Row
from compress.report import formatting
from compress.report.changes import BASELINE_STAGES, change_from_baseline
from compress.report.run_reader import Run

# Programs that run a file once. {file} and {sample} are Python literals.
PROGRAMS = {
    "onnxruntime": """\
import numpy, onnxruntime

options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.set_denormal_as_zero", "1")
session = onnxruntime.InferenceSession({file}, options)
outputs = session.run(None, {{session.get_inputs()[0].name: numpy.load({sample})}})""",
    "openvino": """\
import numpy, openvino

network = openvino.compile_model({file}, "CPU")
outputs = network(numpy.load({sample}))""",
}


class Figure(NamedTuple):
    name: str
    value: str
    note: str


class Answer(NamedTuple):
    """`file` is relative to the run folder. `program` is "" if a runtime needs more than a few lines of Python."""

    target: str
    precision: str
    file: str
    figures: list[Figure]
    command: str
    program: str


def answers(run: Run) -> list[Answer]:
    """The recommended file of each runtime that has an artifact with a manifest."""
    answered = (_answer(run, target, row) for target, row in chosen(run).items())
    return [answer for answer in answered if answer is not None]


def chosen(run: Run) -> dict[str, Row]:
    """The row of the file recommended for each runtime."""
    device = run.config.get("device")
    group = device if isinstance(device, dict) else {}
    precisions, budget = group.get("precisions"), run.config.get("budget")
    limit = budget.get("latency_ms") if isinstance(budget, dict) else None
    rows = to_deploy(
        run.rows,
        run.device,
        [str(each) for each in precisions] if isinstance(precisions, list) else [],
        float(limit) if isinstance(limit, int | float) else None,
    )
    return {target: row for target, row in rows.items() if target is not None}


def _answer(run: Run, target: str, row: Row) -> Answer | None:
    manifest = run.manifests.get(target)
    exported = manifest.models.get(row.precision) if manifest else None
    if exported is None:
        return None
    folder = f"artifacts/{target}"
    file, sample = f"{folder}/{exported.model}", f"{folder}/sample_input.npy"
    bench = f"python bench.py {shlex.quote(row.precision)} --device 'name of this device'"
    program = PROGRAMS.get(target, "").format(file=repr(file), sample=repr(sample))
    return Answer(target, row.precision, file, figures(run.rows, row), f"cd {shlex.quote(folder)}\n{bench}", program)


def figures(rows: Sequence[Row], row: Row) -> list[Figure]:
    """Latency, accuracy and size of a row, each with its change from the baseline."""
    change, timing, score = change_from_baseline(rows, row), row.latency_ms, row.accuracy
    if timing is None or timing.median is None:
        latency = Figure("latency", formatting.latency(row), "")
    else:
        ratio = formatting.latency_ratio(change)
        setup = f"on {formatting.device(row)}, computed in {formatting.inference_precision(row)}"
        latency = Figure("latency, ms", formatting.latency(row), ", ".join(filter(None, (setup, ratio))))
    value, _, source = formatting.accuracy(row)
    drop = "" if change.accuracy is None else f"{formatting.signed(change.accuracy)} from the baseline"
    accuracy = Figure(score.metric if score else "accuracy", value, ", ".join(filter(None, (drop, source))))
    earlier = [r for r in rows if r.stage in BASELINE_STAGES and r.target == row.target and r.size_bytes]
    before = earlier[-1].size_bytes if earlier else None
    from_size = f"{formatting.mega(before)} before" if before else ""
    return [latency, accuracy, Figure("size, MB", formatting.mega(row.size_bytes), from_size)]
