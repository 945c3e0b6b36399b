"""Compares fine-tuning in one process with fine-tuning in several: time, and accuracy after equally many images.

    python scripts/benchmarks/processes.py [--images 640] [--rounds 3] [--seeds 0] [--tuned 4000]
        [--batch 16]

drone_nano's network, pruned to 50 % of its FLOPs by the recipe, is trained with its teacher at 256 px.
Each cell is a program of its own, bound to as many CPUs as the cell names. It trains a few steps, which starts the
processes and their workers, and then times the training of --images images. The cells are measured in turns. The goal
compares two processes that have a CPU each with one process that has one. With --seeds 3, also fine-tunes with --tuned
images for each of three seeds and measures mAP50-95 on 1,000 images.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import common

from compress import checkpoint
from compress.capabilities import Checkpointable, require
from compress.finetuning import tune
from compress.host import host
from compress.models import rebuilder
from compress.product import Product
from compress.stages import prune
from compress.training import distributed
from compress.training.placement import Placement
from compress.training.settings import by_capability

RECIPE = "recipe=drone_nano"
CELLS = {  # name: processes, threads of all of them together, CPUs
    "1 process, 1 thread, 1 CPU": (1, 1, 1),
    "2 processes, 1 thread each, 2 CPUs": (2, 2, 2),
    "1 process, 1 thread, 2 CPUs": (1, 1, 2),
    "1 process, 2 threads, 2 CPUs": (1, 2, 2),
}
WARM_UP = 64  # images
GOAL = 0.65  # of the time of one process with one thread


def main() -> int:
    options = common.parser(__doc__, images=640, rounds=3, seeds=0, tuned=4000, batch=16, processes=0, seed=0)
    options.add_argument("--threads", type=int)
    options.add_argument("--cpus", type=int)
    options.add_argument("--pruned", type=Path)
    options.add_argument("--accuracy", action="store_true")
    chosen = options.parse_args()
    if chosen.processes:
        return cell(chosen)
    with tempfile.TemporaryDirectory() as folder:
        pruned = Path(folder, "pruned")
        recipe = common.Recipe.load(RECIPE)
        with recipe.context(Path(folder)) as context:
            product = prune.run(Product(recipe.model), context)
        checkpoint.save(require(product.model, Checkpointable, "model", RECIPE), pruned)
        seconds: dict[str, list[float]] = {name: [] for name in CELLS}
        for _ in range(chosen.rounds):
            for name, (processes, threads, cpus) in CELLS.items():
                seconds[name].append(
                    measure(processes, threads, cpus, chosen.images, chosen.batch, 0, pruned, False)["seconds"]
                )
        print(f"{host().cpu}, {host().threads} CPUs; {chosen.images} images, batch {chosen.batch}")
        first = seconds[next(iter(CELLS))]
        for name, values in seconds.items():
            ratios = [value / base for value, base in zip(values, first)]
            speed = chosen.images / statistics.median(values)
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            print(f"{name:36} {speed:6.1f} images/s, time x {statistics.median(ratios):.2f} ({spread})")
        ratio = statistics.median(
            value / base for value, base in zip(seconds["2 processes, 1 thread each, 2 CPUs"], first)
        )
        print(f"goal of {GOAL}: {common.met(ratio <= GOAL)}")
        for processes in (1, 2) if chosen.seeds else ():
            results = [
                measure(processes, 2, 2, chosen.tuned, chosen.batch, seed, pruned, True) for seed in range(chosen.seeds)
            ]
            values = [result["accuracy"] for result in results]
            each = ", ".join(f"{value:.4f}" for value in values)
            print(f"{processes} processes: mAP50-95 {statistics.mean(values):.4f} ({each}) after {chosen.tuned} images")
    return 0


def measure(
    processes: int, threads: int, cpus: int, images: int, batch: int, seed: int, pruned: Path, accuracy: bool
) -> dict[str, float]:
    words = ["--processes", processes, "--threads", threads, "--cpus", cpus, "--images", images, "--batch", batch]
    words += ["--seed", seed, "--pruned", pruned, *(["--accuracy"] if accuracy else [])]
    output = common.in_own_process(__file__, [*map(str, words)])
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def cell(options: argparse.Namespace) -> int:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cpus])
    recipe = common.Recipe.load(RECIPE, f"threads={options.threads}", f"seed={options.seed}")
    teacher = require(recipe.model, Checkpointable, "model", RECIPE)
    student = checkpoint.load(options.pruned, rebuilder(teacher))
    distributed.use(options.processes)
    settings = replace(by_capability(options.threads), placement=Placement("cpu", tuple(range(options.processes))))
    finetune = replace(recipe.config.finetune, batch=options.batch, distillation=1.0)
    for count in (WARM_UP, options.images):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            tuned = tune(
                student, teacher, recipe.data.train, replace(finetune, images=count),
                seed=options.seed, stage="finetune", folder=Path(folder), settings=settings,
            )  # fmt: skip
        seconds = time.perf_counter() - began
        student = checkpoint.load(options.pruned, rebuilder(teacher))
    distributed.stop()
    result = {"seconds": seconds}
    if options.accuracy:
        result["accuracy"] = common.evaluate(tuned, recipe.data.validation, recipe.data.classes).value
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(common.run(main))
