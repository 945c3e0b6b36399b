"""Predicts 30 networks on this machine from the microbenchmark of the bench kit, and compares with their latencies.

    taskset -c 1 python scripts/benchmarks/host_prediction.py [--threads 1] [--blocks 480] [--rounds 3]

Batch 1, FP32 arithmetic (OpenVINO with ONEDNN_MAX_CPU_ISA=AVX512_CORE, which excludes BF16), in ONNX Runtime and
OpenVINO, opened as in the bench kit. The 30 networks have random weights and are not used for calibration. Rows are
stored in --out as soon as they are measured: the same command continues an interrupted measurement.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
import torch

from compress import targets
from compress.config import DeviceConfig, ExportConfig, Family, ModelConfig
from compress.devices import graph_operators
from compress.devices.operators import Operator
from compress.devices.prediction import MICROBENCHMARK, LatencyModel, Prediction, Timing, calibrate
from compress.host import host
from compress.models import build
from compress.targets.artifact import KIT
from compress.targets.bench_kit import blocks, onnx_file

RUNTIMES = ("onnxruntime", "openvino")
TIMM = {
    **{"mobilenetv3_small_050": 224, "mobilenetv2_050": 224, "mobilenetv3_large_100": 224, "mnasnet_100": 224},
    **{"mobilenetv4_conv_small": 256, "efficientnet_b0": 224, "efficientnet_lite0": 224, "tf_efficientnetv2_b0": 224},
    **{"ghostnet_100": 224, "resnet18": 224, "resnet50": 224, "resnext50_32x4d": 224, "regnetx_004": 224},
    **{"regnety_032": 224, "densenet121": 224, "convnext_atto": 224, "convnext_tiny": 224, "mobilevit_xs": 256},
    **{"vit_tiny_patch16_224": 224, "deit_small_patch16_224": 224, "inception_v3": 299, "dla34": 224},
    **{"cspdarknet53": 256},
}
TORCHVISION = {"squeezenet1_1": 224, "shufflenet_v2_x1_0": 224}
YOLO = [("yolo26n", 320), ("yolo26n", 640), ("yolo11n", 416), ("yolov8n", 640), ("yolo11s", 512)]
CLOSE = 0.1
SECONDS = 0.8  # of one network in one round

Rows = dict[tuple[str, str], list[float]]  # (runtime, network or block): milliseconds of each round


def main() -> int:
    parser = common.parser(__doc__, threads=1, blocks=480, rounds=3)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/host_prediction.jsonl"), help="the rows")
    options = parser.parse_args()
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE"  # read when OpenVINO is imported
    sys.path.insert(0, str(KIT))  # its scripts import one another, as on a device
    folder = options.out.with_suffix("")
    operators = {name: graph_operators.read(onnx.load(path)) for name, path in exported(folder).items()}
    draw: Callable[[], Iterator[str]] = importlib.import_module("random_blocks").draw
    texts = list(islice(draw(), options.blocks))
    rows = measured(options.out, folder, texts, options.threads, options.rounds)
    small = [graph_operators.read(onnx.load_from_string(onnx_file.encode(blocks.Block(text)))) for text in texts]
    print(f"{host().cpu}, threads {options.threads}, a microbenchmark of {len(texts)} networks\n")
    for runtime in RUNTIMES:
        timings = [
            Timing(MICROBENCHMARK, each, runtime, "fp32", float(np.median(rows[runtime, text])))
            for text, each in zip(texts, small, strict=True)
        ]
        known = {name: float(np.median(rows[runtime, name])) for name in operators}
        report(runtime, calibrate(DeviceConfig(name="this machine"), timings), operators, known)
    return 0


def exported(folder: Path) -> dict[str, Path]:
    """{network: ONNX file} of all networks, exported once."""
    configs = {f"{name} {size}": ModelConfig(family=Family.timm, name=name, imgsz=size) for name, size in TIMM.items()}
    for name, size in TORCHVISION.items():
        target = f"torchvision.models.{name}"
        configs[f"{name} {size}"] = ModelConfig(family=Family.module, target=target, imgsz=size, trust=True)
    configs |= {f"{name} {size}": ModelConfig(name=name, imgsz=size) for name, size in YOLO}
    classes = tuple(f"class {index}" for index in range(80))
    result = {}
    for name, config in configs.items():
        result[name] = folder / f"{name.replace(' ', '_')}.onnx"
        if not result[name].is_file():
            torch.manual_seed(0)
            with tempfile.TemporaryDirectory() as scratch:
                graph = targets.get("onnxruntime").convert(build(config, classes), Path(scratch), ExportConfig())
                result[name].parent.mkdir(parents=True, exist_ok=True)
                result[name].write_bytes(graph.path.read_bytes())
    return result


def measured(out: Path, folder: Path, texts: list[str], threads: int, rounds: int) -> Rows:
    """All latencies: of the networks once per round, of the blocks in the first one."""
    rows: Rows = defaultdict(list)
    for line in out.read_text().splitlines() if out.is_file() else ():
        row = json.loads(line)
        rows[row["runtime"], row["name"]].append(row["ms"])
    networks = exported(folder)
    for runtime in RUNTIMES:
        opener = sys.modules["runtime"] = importlib.import_module(f"runtime_{runtime}")
        microbenchmark: Any = importlib.import_module("microbenchmark")
        microbenchmark.runtime = opener
        for number in range(rounds):
            for name in [*networks, *(texts if number == 0 else ())]:
                if len(rows[runtime, name]) > number:
                    continue
                if name in networks:
                    ms = latency(opener.load, networks[name], threads)
                else:
                    ms, _, _ = microbenchmark.measure(name, threads)
                rows[runtime, name].append(ms)
                with out.open("a") as file:
                    file.write(json.dumps({"runtime": runtime, "name": name, "ms": ms}) + "\n")
    return rows


def latency(load: Callable[..., tuple], path: Path, threads: int) -> float:
    """Median latency in ms."""
    predict, _, _ = load(path, threads)
    shape = [each.dim_value for each in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    for _ in range(3):
        predict(image)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 7 or time.perf_counter() < end:
        start = time.perf_counter()
        predict(image)
        times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times))


def report(runtime: str, model: LatencyModel, operators: dict[str, list[Operator]], known: dict[str, float]) -> None:
    """Prints the table of a runtime."""
    names = sorted(known, key=lambda name: known[name])
    roof = LatencyModel(**{**vars(model), "corrections": {}})
    gflops = {name: 2e-9 * sum(each.macs for each in operators[name]) for name in names}
    line = {}
    for name in names:  # fitted to the other networks
        a, b = common.line([(gflops[other], known[other]) for other in names if other != name])
        line[name] = a + b * gflops[name]
    print(f"| {runtime} | GFLOPs | measured ms | predicted ms | interval | error | roofline | line |")
    print("|---|---|---|---|---|---|---|---|")
    errors = defaultdict(list)
    covered = 0
    for name in names:
        predicted, plain = (each.predict(operators[name], runtime, "fp32") for each in (model, roof))
        assert isinstance(predicted, Prediction) and isinstance(plain, Prediction)
        values = {"predicted": predicted.ms, "roofline": plain.ms, "line": line[name]}
        for kind, value in values.items():
            errors[kind].append(value / known[name] - 1)
        covered += predicted.low <= known[name] <= predicted.high
        texts = [f"{known[name]:.3g}", f"{predicted.ms:.3g}", f"{predicted.low:.3g} to {predicted.high:.3g}"]
        texts += [f"{100 * errors[kind][-1]:+.1f} %" for kind in values]
        print(f"| {name} | {gflops[name]:.2f} | {' | '.join(texts)} |")
    for kind, each in errors.items():
        absolute = np.abs(each)
        close = 100 * np.mean(absolute <= CLOSE)
        print(f"\n{runtime}, {kind}: mean error {100 * absolute.mean():.1f} %, within 10 % {close:.0f} %")
    print(f"{runtime}: {covered} of {len(names)} within the interval of 95 %\n")


if __name__ == "__main__":
    sys.exit(common.run(main))
