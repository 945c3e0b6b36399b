"""Compares our training loop with Ultralytics' trainer on this CPU: images per second, and accuracy for equal images.

    python scripts/benchmarks/trainers.py [--rounds 3] [--steps 12] [--images 1600] [--seeds 3] [--only speed|accuracy]

Both train drone_nano's network, pruned by the recipe and not yet fine-tuned, at 256 px and batch 16, without
validation, plots or checkpoints.
Speed: short trainings in alternation (A B C A B C ...), excluding set-up and first steps; also of the unpruned network.
Accuracy: each way trains once on the same --images of a seed; our evaluation measures mAP50-95 on 1,000 images.

By default Ultralytics' trainer leaves one core idle and loads images in the training process (`workers` is 0 on CPUs),
so it is also timed with all threads and with a loader process. Its defaults disable mosaic in a training this short
(close_mosaic=10 epochs) and take an optimizer step every 64 images; `mosaic` has the augmentation of a long training.
`our settings`: no augmentation, a step every 16 images, AdamW with our learning rate at every step (warm-up, cosine),
and the loss weights of a trained network.
"""

from __future__ import annotations

import copy
import functools
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import nn

from compress import atomic, data
from compress.capabilities import LossScheduled, Teacher, Trainable, require
from compress.config import Config
from compress.errors import UserError
from compress.finetuning import RATE, schedule
from compress.product import Product
from compress.stages import prune
from compress.training.engine import fit
from compress.training.schedule import Schedule
from compress.training.settings import by_capability

RECIPE = "drone_nano"
FIRST = 3  # untimed warm-up steps
GOAL = 2.5  # times the images per second of Ultralytics
NO_AUGMENTATION = dict.fromkeys(
    ("mosaic", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "flipud", "erasing"), 0.0
)


@dataclass(frozen=True)
class Way:
    """A way to train. `overrides` are arguments of Ultralytics' trainer; None selects our loop."""

    overrides: dict[str, Any] | None = None
    distillation: bool = False
    threads: bool = True  # use all threads
    workers: int = 0
    our_rates: bool = False  # our learning rate at every step
    unpruned: bool = False  # also time the unpruned network
    judged: bool = False  # also measure the accuracy


OUR_SETTINGS = {**NO_AUGMENTATION, "optimizer": "AdamW", "nbs": 16, "warmup_epochs": 0.0}
WAYS = {
    "ours": Way(distillation=True, judged=True),
    "ours, labels only": Way(unpruned=True, judged=True),
    "ultralytics": Way({}, threads=False),
    "ultralytics, all threads": Way({}, unpruned=True, judged=True),
    "ultralytics, mosaic": Way({"close_mosaic": 0}),
    "ultralytics, our settings": Way(OUR_SETTINGS, our_rates=True, judged=True),
    "ultralytics, our settings, 1 worker": Way(OUR_SETTINGS, our_rates=True, workers=1),
}


@dataclass
class Clock:
    """Start of each training step: wall-clock seconds, and CPU seconds of this process."""

    starts: list[tuple[float, float]] = field(default_factory=list)

    def tick(self, *_: Any) -> None:
        self.starts.append((time.perf_counter(), time.process_time()))

    def read(self, batch: int) -> dict[str, float]:
        (start, cpu_start), (end, cpu_end) = self.starts[FIRST], self.starts[-1]
        images = batch * (len(self.starts) - 1 - FIRST)
        return {"images_a_second": images / (end - start), "cpu_ms_an_image": 1000 * (cpu_end - cpu_start) / images}


@dataclass(frozen=True)
class Bench:
    """Configuration, data and networks that all trainings have in common."""

    config: Config
    data: data.DataSet
    pruned: Trainable
    unpruned: Trainable
    scratch: Path

    def train(self, way: Way, images: int, clock: Clock, *, pruned: bool = True, seed: int = 0) -> nn.Module:
        """Trains for one pass over `images` training images drawn by `seed`, and returns the averaged network."""
        model = self.pruned if pruned else self.unpruned
        order = np.random.default_rng(seed).permutation(len(self.data.train))[:images].tolist()
        split = replace(self.data.train, samples=[self.data.train.samples[i] for i in order])
        settings = schedule(
            replace(self.config.finetune, images=images),
            self.config.finetune.learning_rate or RATE,
            by_capability(self.config.threads),
        )
        torch.set_num_threads(self.config.threads)
        torch.manual_seed(seed)
        try:
            train = train_here if way.overrides is None else train_with_ultralytics
            return train(self, way, model, split, settings, clock, seed)
        finally:
            torch.set_num_threads(self.config.threads)


def train_here(
    bench: Bench, way: Way, model: Trainable, split: data.Split, settings: Schedule, clock: Clock, seed: int
) -> nn.Module:
    batches = data.TrainingBatches(split, batch=settings.batch, seed=seed, augment=False)
    teacher = None
    if way.distillation:
        net = copy.deepcopy(bench.unpruned.net).eval().requires_grad_(False)
        teacher = Teacher(net.to(memory_format=torch.channels_last), bench.config.finetune.distillation or 0.0)
    model = model.with_net(copy.deepcopy(model.net))
    if isinstance(model, LossScheduled):
        model.schedule_loss(model.net, 1.0)
    loss = functools.partial(model.loss, teacher=teacher)
    return fit(model.net, loss, batches, settings, seed=seed, on_step=clock.tick)


def train_with_ultralytics(
    bench: Bench, way: Way, model: Trainable, split: data.Split, settings: Schedule, clock: Clock, seed: int
) -> nn.Module:
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Trainer(DetectionTrainer):
        """Trains the pruned network instead of building one at full width, without validation or saving."""

        def get_model(self, *_: Any, **__: Any) -> Any:
            if way.threads:
                torch.set_num_threads(bench.config.threads)
            return copy.deepcopy(model.net)

        def validate(self) -> Any:
            return {}, 0.0

        def save_model(self) -> bool:
            return False

        def final_eval(self) -> None:
            pass

    data_yaml = common.ultralytics_data(Path(tempfile.mkdtemp(dir=bench.scratch)), split, model.classes)
    arguments = {
        "model": "yolo26n.yaml", "data": str(data_yaml), "epochs": 1, "imgsz": model.imgsz,
        "batch": settings.batch, "device": "cpu", "amp": False, "val": False, "plots": False, "save": False,
        "project": str(bench.scratch / "runs"), "exist_ok": True, "verbose": False, "seed": seed,
        **(way.overrides or {}),
    }  # fmt: skip
    if way.our_rates:
        arguments |= {"lr0": settings.learning_rate, "momentum": settings.momentum}
        arguments |= {"weight_decay": settings.weight_decay}
    trainer = Trainer(overrides=arguments)
    trainer.args.workers = way.workers

    def begin(trainer: Any) -> None:
        net = trainer.model
        net.criterion = net.init_criterion()
        net.criterion.o2m = net.criterion.final_o2m
        net.criterion.o2o = net.criterion.total - net.criterion.o2m

    def rate(trainer: Any) -> None:
        for group in trainer.optimizer.param_groups:
            group["lr"] = settings.rate(len(clock.starts) - 1)

    trainer.add_callback("on_train_batch_start", clock.tick)
    if way.our_rates:
        trainer.add_callback("on_train_start", begin)
        trainer.add_callback("on_train_batch_start", rate)
    trainer.train()
    assert len(clock.starts) == settings.steps
    average: Any = trainer.ema
    return average.ema.float().eval()


def main() -> int:
    parser = common.parser(__doc__, rounds=3, steps=12, images=1600, seeds=3, threads=2)
    parser.add_argument("--only", choices=["speed", "accuracy"], help="default: both")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help=f"default: all of {'; '.join(WAYS)}")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/trainers"), help="folder of the results")
    options = parser.parse_args()
    if unknown := [way for way in options.ways if way not in WAYS]:
        raise UserError("--ways", unknown[0], f"choose from {'; '.join(WAYS)}")
    recipe = common.Recipe.load(f"recipe={RECIPE}", f"threads={options.threads}")
    with tempfile.TemporaryDirectory() as scratch, recipe.context(options.out / "cache") as context:
        common.isolate_ultralytics(Path(scratch))
        pruned = require(prune.run(Product(recipe.model), context).model, Trainable, "recipe", RECIPE)
        unpruned = require(recipe.model, Trainable, "recipe", RECIPE)
        bench = Bench(recipe.config, recipe.data, pruned, unpruned, Path(scratch))
        ways = {name: WAYS[name] for name in options.ways}
        if options.only != "accuracy":
            speed(bench, ways, options.rounds, options.steps, options.out)
        if options.only != "speed":
            accuracy(bench, ways, options.images, options.seeds, options.out)
    return 0


def speed(bench: Bench, ways: dict[str, Way], rounds: int, steps: int, out: Path) -> None:
    """Prints and stores the speed of each way: median over rounds, and every round.

    On a busy machine, CPU time per image is more reliable than images per second, best with one thread.
    """
    timings: dict[str, list[dict[str, float]]] = {}
    batch = bench.config.finetune.batch
    for _ in range(rounds):
        for name, way in ways.items():
            for pruned in (True, False) if way.unpruned else (True,):
                clock, key = Clock(), f"{'pruned' if pruned else 'unpruned'}: {name}"
                bench.train(way, batch * (FIRST + steps + 1), clock, pruned=pruned)
                timings.setdefault(key, []).append(clock.read(batch))
                print(f"  {key}: {timings[key][-1]['images_a_second']:.1f} images/s", flush=True)
        atomic.write(out / f"speed-{bench.config.threads}.json", json.dumps(timings, indent=1))
    for unit in ("images_a_second", "cpu_ms_an_image"):
        print(f"\n{unit}, {bench.config.threads} threads: median (each round)")
        medians = {key: statistics.median(row[unit] for row in rows) for key, rows in timings.items()}
        for key, rows in timings.items():
            values = ", ".join(f"{row[unit]:.1f}" for row in rows)
            network = key.split(":")[0]
            ours = [value for name, value in medians.items() if name.startswith(f"{network}: ours")]
            speedups = [medians[key] / value if unit.startswith("cpu") else value / medians[key] for value in ours]
            text = " and ".join(f"{speedup:.2f}" for speedup in speedups) if "ultralytics" in key else ""
            print(f"{key:46} {medians[key]:7.1f} ({values}) {text and 'ours is ' + text + ' times as fast'}")
    print(f"goal: {GOAL} times")


def accuracy(bench: Bench, ways: dict[str, Way], images: int, seeds: int, out: Path) -> None:
    """Prints mAP50-95 of each way to be evaluated; results of an earlier call are read from `out`."""
    path = out / f"accuracy-{images}.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    judged = {name: way for name, way in ways.items() if way.judged}
    for seed in range(seeds):
        for name, way in judged.items():
            key = f"{name}, seed {seed}"
            if key not in results:
                start = time.time()
                net = bench.train(way, images, Clock(), seed=seed)
                value = _accuracy(bench, net)
                results[key] = {"map": value, "seconds": time.time() - start}
                atomic.write(path, json.dumps(results, indent=1))
            print(f"  {key}: {results[key]['map']:.4f}", flush=True)
    before = _accuracy(bench, bench.pruned.net)
    print(f"\nmAP50-95 after {images} images: mean over seeds (each seed); before fine-tuning {before:.4f}")
    for name in judged:
        values = [results[f"{name}, seed {seed}"]["map"] for seed in range(seeds)]
        print(f"{name:46} {statistics.mean(values):.4f} ({', '.join(f'{value:.4f}' for value in values)})")


def _accuracy(bench: Bench, net: nn.Module) -> float:
    return common.evaluate(bench.pruned.with_net(net), bench.data.validation, bench.data.classes).value


if __name__ == "__main__":
    sys.exit(common.run(main))
