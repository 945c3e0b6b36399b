"""Times the baseline and the fine-tuned model of a finished run in alternation, in every runtime of its artifacts.

    python scripts/benchmarks/runtimes.py outputs/latest [--imgsz 640] [--json FILE]

The models of a runtime are timed in alternation in one process, so that the machine's drift cancels in their ratios.
OpenVINO is timed at its default precision (BF16 on CPUs with AMX) and at f32; both are compared with the baseline at
the default precision, as deployed. With --imgsz the networks are also exported and timed at another input size, where
INT8 is calibrated on random images.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

import compress
from compress import config as configuration
from compress import models, targets
from compress.capabilities import Model, TorchModel, require
from compress.config import Config
from compress.errors import UserError
from compress.host import host
from compress.measurement.latency import Latency
from compress.product import Graph, Precision
from compress.targets import openvino
from compress.targets.predictor import Predictor

GRAPHS = {
    "onnxruntime": {"fp32": "fp32/model.onnx", "int8": "int8/model.onnx"},
    "openvino": {"fp32": "fp32_openvino_model/model.xml", "int8": "int8_openvino_model/model.xml"},
}
RANDOM_IMAGES = 4  # calibration images at another size: enough for timing, useless for accuracy
ONNXRUNTIME_GOAL = 0.70  # time ratio of INT8 to the FP32 baseline
OPENVINO_GOAL = 0.90  # time ratio of the fastest tuned graph to the FP32 baseline, both at the default precision

Row = dict[str, Any]


def main() -> int:
    parser = common.parser(__doc__, threads=2, rounds=40)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--imgsz", type=int, help="also time at this input size")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = benchmark(options.run, options.imgsz, options.threads, options.rounds)
    verdicts = [line for size in dict.fromkeys(row["imgsz"] for row in rows) for line in judge(rows, size)]
    print_table(rows)
    print("\n".join(verdicts))
    if options.json is not None:
        conditions = {"run": str(options.run), "host": host().as_dict(), "threads": options.threads, "batch": 1}
        options.json.write_text(json.dumps({**conditions, "rows": rows, "verdicts": verdicts}, indent=1) + "\n")
    return 0


def benchmark(run: Path, imgsz: int | None, threads: int, rounds: int) -> list[Row]:
    """Rows of every runtime that the run exported for, at the run's input size and at `imgsz`.

    Raises:
        UserError: `run` is not the folder of a finished run with artifacts.
    """
    config = configuration.read(run)
    tuned = compress.load(run / "pruned")
    # Weights do not change the time, so a baseline that the run trained itself is timed with random ones.
    built = models.build(dataclasses.replace(config.model, init=None), tuned.classes)
    baseline = require(built, TorchModel, "run", run)
    runtimes = [name for name in GRAPHS if (run / "artifacts" / name / "manifest.json").is_file()]
    if not runtimes:
        raise UserError("run", run, f"has no artifacts for {' or '.join(GRAPHS)}; use the folder of a finished run")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in runtimes:
            folder = Path(scratch, name)
            graphs = {"baseline fp32": targets.get(name).convert(baseline, folder, config.export)}
            for precision, file in GRAPHS[name].items():
                path = run / "artifacts" / name / file
                if path.is_file():
                    graphs[f"tuned {precision}"] = Graph(path, name, Precision(precision))
            rows += time_graphs(name, graphs, tuned, threads, rounds, note="")
            if imgsz is not None and imgsz != tuned.imgsz:
                graphs = export_again(
                    name, baseline.with_imgsz(imgsz), tuned.with_imgsz(imgsz), config, folder / "resized"
                )
                note = "INT8 calibrated on random images"
                rows += time_graphs(name, graphs, tuned.with_imgsz(imgsz), threads, rounds, note)
    return rows


def export_again(name: str, baseline: Model, tuned: Model, config: Config, folder: Path) -> dict[str, Graph]:
    """Exports both models at their current input size: the baseline in FP32, the tuned model in FP32 and INT8."""
    target = targets.get(name)
    rng = np.random.default_rng(0)
    shape = (1, tuned.channels, tuned.imgsz, tuned.imgsz)
    images = [rng.random(shape, dtype=np.float32) for _ in range(RANDOM_IMAGES)]
    fp32 = target.convert(tuned, folder / "fp32", config.export)
    return {
        "baseline fp32": target.convert(baseline, folder / "baseline", config.export),
        "tuned fp32": fp32,
        "tuned int8": target.quantize(fp32, tuned, images, folder / "int8"),
    }


def time_graphs(
    runtime: str, graphs: Mapping[str, Graph], model: Model, threads: int, rounds: int, note: str
) -> list[Row]:
    """Times the graphs of one runtime in alternation; ratios are relative to the first graph."""
    predictors: dict[tuple[str, str], Predictor] = {}
    for name, graph in graphs.items():
        predictors[name, "default"] = targets.load(graph, threads)
    if runtime == "openvino":
        for name, graph in graphs.items():
            predictors[name, "f32"] = openvino.load(graph, threads, exact=True)
    image = model.example_input().numpy()
    # One runtime at a time: thread pools keep spinning after a call and would disturb the other runtime.
    calls = {f"{name} {requested}": partial(predictor, image) for (name, requested), predictor in predictors.items()}
    times = common.in_turns(calls, rounds)
    return [
        row(runtime, name, requested, predictor, times[f"{name} {requested}"][0], model.imgsz, note)
        for (name, requested), predictor in predictors.items()
    ]


def row(runtime: str, name: str, requested: str, predictor: Predictor, time: Latency, imgsz: int, note: str) -> Row:
    assert time.ratio is not None and time.ratio_ci95 is not None  # interleaved always compares
    return {
        "runtime": runtime,
        "version": predictor.runtime,
        "name": name,
        "imgsz": imgsz,
        "precision_asked": requested,
        "inference_precision": predictor.inference_precision,
        "median_ms": time.median,
        "p95_ms": time.p95,
        "runs": time.runs,
        "ratio": time.ratio,
        "ratio_ci95": list(time.ratio_ci95),
        "note": note,
    }


def judge(rows: list[Row], imgsz: int) -> list[str]:
    """One line per goal, at one input size."""
    by_name = {(r["runtime"], r["name"]): r for r in rows if r["imgsz"] == imgsz and r["precision_asked"] == "default"}
    lines = []
    int8 = by_name.get(("onnxruntime", "tuned int8"))
    if int8 is not None:
        lines.append(_line(int8, ONNXRUNTIME_GOAL, "tuned int8"))
    fastest = [r for (runtime, name), r in by_name.items() if runtime == "openvino" and name != "baseline fp32"]
    if fastest:
        best = min(fastest, key=lambda r: float(r["ratio"]))
        lines.append(_line(best, OPENVINO_GOAL, f"fastest, {best['name']} ({best['inference_precision']})"))
    return lines


def _line(row: Row, goal: float, model: str) -> str:
    return (
        f"{row['runtime']} at {row['imgsz']} px: {model} takes {row['ratio']:.3f} of the baseline's time "
        f"(goal {goal:.2f}): {common.met(row['ratio'] <= goal)}"
    )


def print_table(rows: list[Row]) -> None:
    print(f"{'runtime':<12} {'model':<14} {'imgsz':>5} {'runs in':<8} {'median ms':>9} {'p95':>7}  ratio (95 %)")
    for r in rows:
        computed = r["inference_precision"] + (" (forced)" if r["precision_asked"] != "default" else "")
        if r["inference_precision"] == "int8" and r["precision_asked"] != "default":
            computed = f"int8+{r['precision_asked']}"
        low, high = r["ratio_ci95"]
        note = f"  {r['note']}" if r["note"] and "int8" in r["name"] else ""
        print(
            f"{r['runtime']:<12} {r['name']:<14} {r['imgsz']:>5} {computed:<8} {r['median_ms']:>9.2f} "
            f"{r['p95_ms']:>7.2f}  {r['ratio']:.3f} ({low:.3f}-{high:.3f}){note}"
        )


if __name__ == "__main__":
    sys.exit(common.run(main))
