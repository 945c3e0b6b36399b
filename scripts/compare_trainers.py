"""Our training loop against Ultralytics' own trainer, on this CPU: images a second, and accuracy for the same images.

    python scripts/compare_trainers.py [--rounds 3] [--steps 12] [--images 1600] [--seeds 3] [--only speed|accuracy]

Both start from drone_nano's network, pruned by the recipe and not tuned yet, at 256 px and batch 16.
Speed: short trainings in turns, A B C A B C ..., without their setting up and first steps; of the unpruned network too.
Accuracy: each sees the same --images of its seed once; mAP50-95 on the 1,000 validation images by our own evaluation.

Ultralytics' trainer leaves one core idle by itself and loads images in the training process (on CPUs it sets `workers`
to 0), so it is also timed with all threads, and with a loader process. Its defaults turn mosaic off in so short a
training (close_mosaic=10 epochs) and take an optimizer step every 64 images; `mosaic` is what a long one runs with.
`our settings`: no augmentation, a step every 16 images, AdamW with our rates step by step, warm-up and cosine included,
and the loss weights of a network already trained. No validation, plots or checkpoints anywhere.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from compress.recovery import RATE, schedule
from torch import nn

from compress import atomic, data, models
from compress.cache import Cache
from compress.config import Config, compose
from compress.errors import UserError
from compress.measurement.accuracy import evaluate, predictor
from compress.models.ultralytics_package import require_ultralytics
from compress.product import Model, Teacher
from compress.stages import prune
from compress.stages.context import Context
from compress.training.engine import fit
from compress.training.schedule import Schedule
from compress.training.settings import by_capability

RECIPE = "drone_nano"
FIRST = 3  # steps that are not timed: caches fill, memory is taken
GOAL = 2.5  # times Ultralytics' images a second
NO_AUGMENTATION = dict.fromkeys(
    ("mosaic", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "flipud", "erasing"), 0.0
)


@dataclass(frozen=True)
class Way:
    """How to train. `theirs` are arguments of Ultralytics' trainer; None: our loop."""

    theirs: dict[str, Any] | None = None
    distillation: bool = False
    threads: bool = True  # all of them
    workers: int = 0
    our_rates: bool = False
    unpruned: bool = False  # timed on the unpruned network too
    judged: bool = False  # for its accuracy too


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
    """When each training step began: seconds, and processor seconds of this process."""

    starts: list[tuple[float, float]] = field(default_factory=list)

    def tick(self, *_: Any) -> None:
        self.starts.append((time.perf_counter(), time.process_time()))

    def read(self, batch: int) -> dict[str, float]:
        (began, worked), (ended, done) = self.starts[FIRST], self.starts[-1]
        images = batch * (len(self.starts) - 1 - FIRST)
        return {"images_a_second": images / (ended - began), "cpu_ms_an_image": 1000 * (done - worked) / images}


@dataclass(frozen=True)
class Bench:
    """What all trainings share."""

    config: Config
    data: data.DataSet
    pruned: Model
    unpruned: Model
    scratch: Path

    def train(self, way: Way, images: int, clock: Clock, *, pruned: bool = True, seed: int = 0) -> nn.Module:
        """The network after one pass over the first `images` of the seed's random order of the training images."""
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
            return (ours if way.theirs is None else theirs)(self, way, model, split, settings, clock, seed)
        finally:
            torch.set_num_threads(self.config.threads)


def ours(
    bench: Bench, way: Way, model: Model, split: data.Split, settings: Schedule, clock: Clock, seed: int
) -> nn.Module:
    load = functools.partial(data.batches, split, model.task, batch=settings.batch, seed=seed, augment=False)
    teacher = None
    if way.distillation:
        net = copy.deepcopy(bench.unpruned.net).eval().requires_grad_(False)
        teacher = Teacher(net.to(memory_format=torch.channels_last), bench.config.finetune.teaching)
    model = model.with_net(copy.deepcopy(model.net))
    model.progress(model.net, 1.0)
    loss = functools.partial(model.loss, teacher=teacher)
    return fit(model.net, loss, lambda epoch: load(epoch=epoch), settings, seed=seed, on_step=clock.tick)


def theirs(
    bench: Bench, way: Way, model: Model, split: data.Split, settings: Schedule, clock: Clock, seed: int
) -> nn.Module:
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Trainer(DetectionTrainer):
        """Trains `model` as it is, which by itself it would build anew at full width; and only trains."""

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

    arguments = {
        "model": "yolo26n.yaml", "data": str(_listed(split, bench.scratch, model)), "epochs": 1, "imgsz": model.imgsz,
        "batch": settings.batch, "device": "cpu", "amp": False, "val": False, "plots": False, "save": False,
        "project": str(bench.scratch / "runs"), "exist_ok": True, "verbose": False, "seed": seed,
        **(way.theirs or {}),
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


def _listed(split: data.Split, scratch: Path, model: Model) -> Path:
    """A data.yaml of just these images. Ultralytics writes its index beside the labels, so they are seen from here."""
    folder = scratch / "data"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        source = Path(str(split.samples[0].source)).parent
        link = folder / kind / source.name
        if not link.exists():
            link.symlink_to((source.parents[1] / kind / source.name).resolve())
    (folder / "train.txt").write_text(
        "".join(
            f"{folder}/images/{Path(str(s.source)).parent.name}/{Path(str(s.source)).name}\n" for s in split.samples
        )
    )
    facts = {"path": str(folder), "train": "train.txt", "val": "train.txt", "names": dict(enumerate(model.classes))}
    (folder / "data.yaml").write_text(yaml.safe_dump(facts))
    return folder / "data.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of timing")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each training")
    parser.add_argument("--images", type=int, default=1600, help="image presentations for the accuracy")
    parser.add_argument("--seeds", type=int, default=3, help="for the accuracy: seeds 0 to N-1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["speed", "accuracy"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help=f"of: {'; '.join(WAYS)}")
    parser.add_argument("--out", type=Path, default=Path("outputs/compare_trainers"))
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        if unknown := [way for way in given.ways if way not in WAYS]:
            raise UserError("--ways", unknown[0], f"choose of {'; '.join(WAYS)}")
        with tempfile.TemporaryDirectory() as scratch:
            isolate(Path(scratch))
            bench = prepare(Path(scratch), given.out, given.threads)
            ways = {name: WAYS[name] for name in given.ways}
            if given.only != "accuracy":
                speed(bench, ways, given.rounds, given.steps, given.out)
            if given.only != "speed":
                accuracy(bench, ways, given.images, given.seeds, given.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def isolate(folder: Path) -> None:
    """Keeps Ultralytics, not imported yet, off the network and away from the user's settings."""
    os.environ.update(YOLO_CONFIG_DIR=str(folder), YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    require_ultralytics()


def prepare(scratch: Path, out: Path, threads: int) -> Bench:
    """The recipe's data and networks; what was pruned once is kept."""
    config = models.resolve(compose([f"recipe={RECIPE}", f"threads={threads}"]))
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    dataset = data.load(config.data, *config.model.input, config.seed)
    unpruned: Model = models.build(config.model, dataset.classes, dataset.task)
    context = Context(config, dataset, scratch, scratch, Cache(out / "cache"))
    return Bench(config, dataset, prune.run(unpruned, context), unpruned, scratch)


def speed(bench: Bench, ways: dict[str, Way], rounds: int, steps: int, out: Path) -> None:
    """Prints and keeps how fast each way is: median over rounds, and all of them. Where other work shares the
    processor, its time an image says more than images a second; with one thread none of it is spent waiting."""
    found: dict[str, list[dict[str, float]]] = {}
    batch = bench.config.finetune.batch
    for _ in range(rounds):
        for name, way in ways.items():
            for pruned in (True, False) if way.unpruned else (True,):
                clock, key = Clock(), f"{'pruned' if pruned else 'unpruned'}: {name}"
                bench.train(way, batch * (FIRST + steps + 1), clock, pruned=pruned)
                found.setdefault(key, []).append(clock.read(batch))
                print(f"  {key}: {found[key][-1]['images_a_second']:.1f} images/s", flush=True)
        atomic.write(out / f"speed-{bench.config.threads}.json", json.dumps(found, indent=1))
    for unit in ("images_a_second", "cpu_ms_an_image"):
        print(f"\n{unit}, {bench.config.threads} threads: median (each round)")
        medians = {key: statistics.median(each[unit] for each in rows) for key, rows in found.items()}
        for key, rows in found.items():
            spread = ", ".join(f"{each[unit]:.1f}" for each in rows)
            own = {mine: value for mine, value in medians.items() if mine.startswith(key.split(":")[0] + ": ours")}
            better = [
                medians[key] / value if unit.startswith("cpu") else value / medians[key] for value in own.values()
            ]
            against = " and ".join(f"{value:.2f}" for value in better) if "ultralytics" in key else ""
            print(f"{key:46} {medians[key]:7.1f} ({spread}) {against and 'ours is ' + against + ' times as fast'}")
    print(f"goal: {GOAL} times")


def accuracy(bench: Bench, ways: dict[str, Way], images: int, seeds: int, out: Path) -> None:
    """Prints mAP50-95 of each judged way; finished ones are read from where an earlier call left them."""
    path = out / f"accuracy-{images}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    judged = {name: way for name, way in ways.items() if way.judged}
    for seed in range(seeds):
        for name, way in judged.items():
            key = f"{name}, seed {seed}"
            if key not in found:
                began = time.time()
                net = bench.train(way, images, Clock(), seed=seed)
                value = _accuracy(bench.pruned.with_net(net), bench.data)
                found[key] = {"map": value, "seconds": time.time() - began}
                atomic.write(path, json.dumps(found, indent=1))
            print(f"  {key}: {found[key]['map']:.4f}", flush=True)
    before = _accuracy(bench.pruned, bench.data)
    print(f"\nmAP50-95 after {images} images: mean over seeds (each); before tuning {before:.4f}")
    for name in judged:
        values = [found[f"{name}, seed {seed}"]["map"] for seed in range(seeds)]
        print(f"{name:46} {statistics.mean(values):.4f} ({', '.join(f'{value:.4f}' for value in values)})")


def _accuracy(model: Model, dataset: data.DataSet) -> float:
    net = predictor(model.deployed())
    return evaluate(net, model.decode, dataset.validation, model.task, dataset.classes, batch=16).value


if __name__ == "__main__":
    sys.exit(main())
