"""Trains drone_nano's baseline: YOLO26n on field_scenes at 256 px, from random weights.

    python scripts/train_baseline.py [--images 64000] [--start CHECKPOINT]

--start continues from the weights of an earlier baseline with a second cosine schedule. The same command resumes an
interrupted training; its state is in --work. --out receives model.safetensors and model.json, training.json (settings
and result), training.csv (learning curve) and curve.png.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import logging
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from compress import __version__, checkpoint, data
from compress.config import DataConfig, ModelConfig
from compress.examples import field_scenes
from compress.measurement.accuracy import Accuracy, evaluate, predictor
from compress.models import ultralytics
from compress.models.ultralytics_model import UltralyticsDetector
from compress.models.weights import BASELINES
from compress.tasks import DETECT
from compress.training.engine import fit
from compress.training.schedule import Schedule

IMGSZ = 256
SCHEDULE = Schedule(
    images=64_000, learning_rate=0.002, optimizer="adamw", weight_decay=0.01, warmup=0.02, ema=0.9995, final=0.01
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=SCHEDULE.images, help="image presentations")
    parser.add_argument("--start", type=Path, help="checkpoint folder with the initial weights")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, image order and augmentation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--compile", action="store_true", help="use torch.compile: takes minutes to start, then 1.4 times as fast"
    )
    parser.add_argument("--work", type=Path, default=Path("outputs/baselines/drone_nano"), help="training state")
    parser.add_argument("--out", type=Path, default=BASELINES / "drone_nano")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)

    dataset = data.load(DataConfig(name="field_scenes"), IMGSZ, 3, options.seed)
    torch.manual_seed(options.seed)  # the initial weights
    model = ultralytics.build(ModelConfig(name="yolo26n", imgsz=IMGSZ), dataset.classes)
    assert isinstance(model, UltralyticsDetector)
    start_record = None
    if options.start:
        model.net.load_state_dict(checkpoint.read(options.start)[1])
        start_record = json.loads((options.start / "training.json").read_text())
    schedule = replace(SCHEDULE, images=options.images)
    if options.compile:
        model.net.compile(dynamic=False)
    curve = Curve(options.work / "training.csv", model, dataset.validation, dataset.classes, options.start)
    batches = data.TrainingBatches(dataset.train, batch=schedule.batch, seed=options.seed, augment=True)
    start_time = time.time()
    trained = fit(
        model.net,
        model.loss,
        batches,
        schedule,
        seed=options.seed,
        checkpoint=options.work / "state.safetensors",
        label="baseline",
        on_epoch=curve.add,
        on_step=functools.partial(model.schedule_loss, model.net),
    )
    final = model.with_net(trained)
    record = {
        "compress": __version__,
        "generator_version": field_scenes.GENERATOR_VERSION,
        "data_fingerprint": dataset.fingerprint,
        "schedule": asdict(schedule),
        "seed": options.seed,
        "started_from": start_record,
        "seconds_of_last_process": round(time.time() - start_time),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "validation": measure(final, dataset.validation, dataset.classes).row(),
    }
    checkpoint.save(final, options.out)
    (options.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "training.csv").write_text(curve.path.read_text())
    curve.draw(options.out / "curve.png")
    print(json.dumps(record["validation"], indent=1))


def measure(model: UltralyticsDetector, split: data.Split, classes: tuple[str, ...]) -> Accuracy:
    """Accuracy of the deployed network on a split."""
    return evaluate(predictor(model.deployed()), model.decode, split, DETECT, classes, batch=16)


class Curve:
    """Learning curve as CSV, one row per epoch. It survives a resumed training, and continues the curve of `start`."""

    def __init__(
        self, path: Path, model: UltralyticsDetector, split: data.Split, classes: tuple[str, ...], start: Path | None
    ) -> None:
        self.path, self.model, self.split, self.classes = path, model, split, classes
        self.earlier = Curve.read(start / "training.csv") if start else []

    def add(self, epoch: int, net: nn.Module, loss: float) -> None:
        """Measures the averaged network after an epoch (from 0)."""
        epoch += len(self.earlier)
        rows = Curve.read(self.path) or self.earlier
        rows = [row for row in rows if int(row["epoch"]) < epoch + 1]  # an interrupted epoch is measured again
        accuracy = measure(self.model.with_net(net), self.split, self.classes)
        new = {
            "epoch": epoch + 1,
            "loss": f"{loss:.4f}",
            "map50_95": f"{accuracy.value:.4f}",
            "map50": f"{accuracy.map50:.4f}",
        }
        new |= {f"ap_{name}": f"{value:.4f}" for name, value in accuracy.per_class.items()}
        with open(self.path, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(new))
            writer.writeheader()
            writer.writerows([*rows, new])
        logging.info("baseline: epoch %d, mAP50-95 %.4f, mAP50 %.4f", epoch + 1, accuracy.value, accuracy.map50)

    @staticmethod
    def read(path: Path) -> list[dict[str, str]]:
        if not path.exists():
            return []
        with open(path, newline="") as file:
            return list(csv.DictReader(file))

    def draw(self, path: Path) -> None:
        """Plots mAP50-95 and mAP50 over epochs."""
        import matplotlib.pyplot as plt  # a dependency of Ultralytics, which this script requires

        rows = Curve.read(self.path)
        figure, axes = plt.subplots(figsize=(6, 3.5))
        for key, label in (("map50_95", "mAP50-95"), ("map50", "mAP50")):
            axes.plot([int(row["epoch"]) for row in rows], [float(row[key]) for row in rows], marker="o", label=label)
        axes.set(xlabel="epoch of 12,000 images", ylabel="mAP, 1,000 validation images", ylim=(0, 1))
        axes.legend()
        axes.grid(alpha=0.3)
        figure.savefig(path, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
