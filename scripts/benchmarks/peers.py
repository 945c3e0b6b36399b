"""Compares INT8 graphs in each runtime: Ultralytics' exports, plain NNCF, plain ONNX Runtime, and this package.

    python scripts/benchmarks/peers.py [RUN ...] [--sizes 256 640] [--threads 2] [--rounds 40]

All graphs are made from drone_nano's baseline, calibrated on the same images and evaluated on the 3,000-image
validation split. RUN is a finished drone_nano run at fewer FLOPs, whose artifacts are included. The graphs of a runtime
are timed in alternation, so that the machine's drift cancels in their ratios. Graphs at sizes other than the recipe's
are only timed. Accuracies are stored in --out: the same command continues an interrupted comparison.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

import compress
from compress import atomic, data, models, targets
from compress.capabilities import Evaluable, Model, TorchModel, require
from compress.config import compose
from compress.data import DataSet
from compress.errors import TargetFailed
from compress.measurement.rows import flops_at
from compress.product import Graph, Precision
from compress.quantization.search import Search
from compress.targets import artifact
from compress.targets.onnx_graph import INPUT

RECIPE = "drone_nano"
RUNTIMES = ("onnxruntime", "openvino")
FEW = 32  # calibration images of graphs that are timed only
OURS = "ours"
NEAR = 0.003  # goal: mAP at most this far below the best peer
NOISE = 0.03  # goal: at most this fraction slower than the fastest peer

Row = dict[str, Any]


@dataclass(frozen=True)
class Peers:
    """Makes the graphs of one model at one input size with every tool."""

    model: Model
    data: DataSet  # at the model's input size
    images: int  # number of calibration images
    threads: int
    folder: Path

    @property
    def calibration(self) -> list[np.ndarray]:
        return list(data.images(self.data.calibration.first(self.images)))

    def graphs(self, runtime: str) -> Iterator[tuple[str, Graph]]:
        """Yields (name, graph) of every tool for a runtime. A tool that fails is reported and omitted."""
        fp32 = targets.get(runtime).convert(
            self.model, self.folder / runtime / "fp32", compose([f"recipe={RECIPE}"]).export
        )
        yield f"{OURS} fp32", fp32
        plain = {"onnxruntime": plain_onnxruntime, "openvino": plain_nncf}[runtime]
        tools = {
            "ultralytics fp32": lambda: ultralytics_export(self, runtime, None),
            "ultralytics int8": lambda: ultralytics_export(self, runtime, 8),
            f"{plain.__name__.removeprefix('plain_')} int8": lambda: plain(self, fp32),
            f"{OURS} int8": lambda: self.ours(fp32),
        }
        for name, make in tools.items():
            try:
                yield name, make()
            except Exception as error:  # exporters of other projects raise anything
                print(f"{runtime} {name}: FAILED: {error}", flush=True)

    def ours(self, fp32: Graph) -> Graph:
        """The INT8 graph that this package's search selects."""
        folder = self.folder / fp32.target / "ours"
        split = self.data.calibration.first(self.images)
        return (
            Search(
                fp32,
                require(self.model, Evaluable, "model", RECIPE),
                split,
                self.calibration,
                folder,
                0.01,
                600,
                threads=self.threads,
                timed=True,
            )
            .run()
            .graph
        )


def ultralytics_export(peers: Peers, runtime: str, quantize: int | None) -> Graph:
    """The graph from Ultralytics' exporter, which calibrates on the `val` split: here the calibration images."""
    from ultralytics import YOLO

    folder = peers.folder / runtime / f"ultralytics-{quantize}"
    folder.mkdir(parents=True)
    models.save_native(peers.model, folder)
    kind = {"onnxruntime": "onnx", "openvino": "openvino"}[runtime]
    split = peers.data.calibration.first(peers.images)
    settings: dict[str, Any] = {"format": kind, "imgsz": peers.model.imgsz, "device": "cpu", "verbose": False}
    if quantize is not None:
        settings |= {"quantize": quantize, "data": str(common.ultralytics_data(folder, split, peers.model.classes))}
    exported = Path(YOLO(str(folder / "model.pt")).export(**settings))
    path = next(exported.glob("*.xml")) if exported.is_dir() else exported
    return Graph(path, runtime, Precision.int8 if quantize else Precision.fp32)


def plain_nncf(peers: Peers, fp32: Graph) -> Graph:
    """`nncf.quantize` with default settings."""
    import nncf
    import openvino

    quantized = nncf.quantize(openvino.Core().read_model(fp32.path), nncf.Dataset(peers.calibration))
    path = peers.folder / fp32.target / "plain" / "model.xml"
    path.parent.mkdir(parents=True)
    openvino.save_model(quantized, path, compress_to_fp16=False)
    return Graph(path, fp32.target, Precision.int8)


def plain_onnxruntime(peers: Peers, fp32: Graph) -> Graph:
    """`quantize_static` with default settings, after the pre-processing that its documentation recommends."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images = iter(peers.calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {INPUT: image}

    folder = peers.folder / fp32.target / "plain"
    folder.mkdir(parents=True)
    quant_pre_process(str(fp32.path), str(folder / "prepared.onnx"))
    quantize_static(str(folder / "prepared.onnx"), str(folder / "model.onnx"), Reader())
    return Graph(folder / "model.onnx", fp32.target, Precision.int8)


def main() -> int:
    parser = common.parser(__doc__, threads=2, rounds=40)
    parser.add_argument("runs", nargs="*", type=Path, help="finished runs of drone_nano to include")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 640], help="input sides in pixels")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/peers"), help="folder of the accuracies")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        common.isolate_ultralytics(Path(scratch))
        rows = compare(options, Path(scratch))
    table(rows)
    for line in goals(rows):
        print(line)
    return 0


def compare(options: argparse.Namespace, scratch: Path) -> list[Row]:
    recipe = common.Recipe.load(f"recipe={RECIPE}", "data.large_validation=true", f"threads={options.threads}")
    config, dataset, model = recipe.config, recipe.data, recipe.network
    tuned = {run: compress.load(run / "pruned") for run in options.runs}
    rows = []
    for runtime in RUNTIMES:
        for size in options.sizes:
            evaluated = size == model.imgsz
            images = config.data.calibration_images if evaluated else FEW
            folder, sized = scratch / str(size), data.resized(dataset, size)
            graphs = dict(Peers(model.with_imgsz(size), sized, images, options.threads, folder).graphs(runtime))
            for run, small in tuned.items():
                label = f"{flops_at(small, small.imgsz) / flops_at(model, model.imgsz):.0%}"
                if changed := small.constructor().get("activation"):
                    label += f" {changed}"
                if evaluated:
                    packed = artifact.read(run / "artifacts" / runtime)
                    graphs |= {f"{OURS} {label} {graph.precision.value}": graph for graph, _ in packed}
                else:
                    peers = Peers(small.with_imgsz(size), sized, images, options.threads, folder / label)
                    fp32 = targets.get(runtime).convert(peers.model, peers.folder / runtime / "fp32", config.export)
                    graphs |= {f"{OURS} {label} fp32": fp32, f"{OURS} {label} int8": peers.ours(fp32)}
            rows += rows_of(runtime, size, graphs, model, dataset if evaluated else None, options)
    return rows


def rows_of(
    runtime: str,
    size: int,
    graphs: dict[str, Graph],
    model: TorchModel,
    evaluation: DataSet | None,
    options: argparse.Namespace,
) -> list[Row]:
    """One row per graph, timed in alternation and, if `evaluation` is set, evaluated on its validation split."""
    loaded = {name: targets.load(graph, options.threads) for name, graph in graphs.items()}
    image = model.with_imgsz(size).example_input().numpy()
    calls = {name: functools.partial(predictor, image) for name, predictor in loaded.items()}
    rows = []
    for name, (latency, ratio, text) in common.in_turns(calls, options.rounds).items():
        row: Row = {"runtime": runtime, "size": size, "name": name, "bytes": targets.size_bytes(graphs[name])}
        row |= {"ms": latency.median, "p95": latency.p95, "ratio": ratio, "turns": text}
        row |= {"computed": loaded[name].inference_precision, "int8": loaded[name].int8_mac_share()}
        if evaluation is not None:
            digest = "" if graphs[name].path.is_relative_to(tempfile.gettempdir()) else f" {_digest(graphs[name])}"
            row["map"] = accuracy(options.out / f"{runtime} {name}{digest}.json", loaded[name], model, evaluation)
        rows.append(row)
    return rows


def _digest(graph: Graph) -> str:
    """Distinguishes the artifacts of runs from each other; graphs made by this script are the same every time."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in graph.files)).hexdigest()[:8]


def accuracy(path: Path, predictor: Any, model: Model, evaluation: DataSet) -> float | None:
    """mAP50-95, read from `path` if an earlier call stored it; None if the outputs do not fit this network."""
    if path.exists():
        return json.loads(path.read_text())["map"]
    try:
        value = common.evaluate(model, evaluation.validation, evaluation.classes, predictor).value
    except (TargetFailed, IndexError, ValueError) as error:
        print(f"{path.stem}: cannot be evaluated: {error}", flush=True)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, json.dumps({"map": value}))
    return value


def table(rows: Sequence[Row]) -> None:
    print(
        f"{'runtime':12} {'size':>4} {'graph':22} {'mAP50-95':>8} {'ms':>7} {'p95':>7} {'of the first (95 %)':>22} "
        f"{'MB':>6} in"
    )
    for row in rows:
        value = f"{row['map']:.4f}" if row.get("map") is not None else "–"
        times = f"{row['ms']:7.2f} {row['p95']:7.2f} {row['turns']}"
        computed = f"{row['computed']}, {row['int8']:.0%} of MACs in INT8" if row["int8"] else row["computed"]
        print(
            f"{row['runtime']:12} {row['size']:4} {row['name']:22} {value:>8} {times} "
            f"{row['bytes'] / 1e6:6.2f} {computed}"
        )


def goals(rows: Sequence[Row]) -> Iterator[str]:
    """Compares this package's unpruned graphs with the best peer, per runtime and size."""
    for runtime, size in dict.fromkeys((row["runtime"], row["size"]) for row in rows):
        here = [row for row in rows if (row["runtime"], row["size"]) == (runtime, size)]
        peers = [row for row in here if not row["name"].startswith(OURS)]
        ours = [row for row in here if row["name"] in (f"{OURS} fp32", f"{OURS} int8")]
        if not peers or not ours:
            continue
        fastest, our_fastest = (min(graphs, key=lambda row: row["ms"]) for graphs in (peers, ours))
        ratio = our_fastest["ratio"] / fastest["ratio"]
        met = common.met(ratio <= 1 + NOISE)
        yield f"{runtime} {size}: ours takes {ratio:.3f} of the time of the fastest peer, {fastest['name']}: {met}"
        for row in here:
            if row["name"].startswith(f"{OURS} ") and "%" in row["name"]:
                yield f"{runtime} {size}: {row['name']} takes {row['ratio'] / fastest['ratio']:.3f} of its time"
        evaluated = [row for row in peers if row.get("map") is not None and row["name"].endswith("int8")]
        int8 = next((row for row in ours if row["name"].endswith("int8")), None)
        if evaluated and int8 is not None:
            best = max(evaluated, key=lambda row: row["map"])
            off = best["map"] - int8["map"]
            yield f"{runtime} {size}: INT8 {off:+.4f} below the best peer, {best['name']}: {common.met(off <= NEAR)}"


if __name__ == "__main__":
    sys.exit(common.run(main))
