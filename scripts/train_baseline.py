"""Train drone_nano's baseline: YOLO26n on field scenes at 256 px, from random weights.

    python scripts/train_baseline.py [--images 64000] [--start CHECKPOINT]

Or, with --start, from an earlier baseline's folder: a second cosine from its weights, when the first was too short.
Interrupt it whenever you like: the same command goes on where it stopped (state in --work). When done it writes
compress/models/baselines/drone_nano/{model.safetensors,model.json} and beside them its record: training.json (how it
was made), training.csv (the curve) and curve.png.
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
    parser.add_argument("--images", type=int, default=SCHEDULE.images, help="length in image presentations")
    parser.add_argument("--start", type=Path, help="a checkpoint folder to go on from, instead of random weights")
    parser.add_argument("--seed", type=int, default=0, help="initial weights, order of images, augmentation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile: minutes to start, then 1.4 times as fast"
    )
    parser.add_argument("--work", type=Path, default=Path("outputs/baselines/drone_nano"), help="state on the way")
    parser.add_argument("--out", type=Path, default=BASELINES / "drone_nano")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)

    dataset = data.load(DataConfig(name="field_scenes"), IMGSZ, 3, given.seed)
    torch.manual_seed(given.seed)  # the initial weights
    model = ultralytics.build(ModelConfig(name="yolo26n", imgsz=IMGSZ), dataset.classes)
    assert isinstance(model, UltralyticsDetector)
    begun = None
    if given.start:
        model.net.load_state_dict(checkpoint.read(given.start)[1])
        begun = json.loads((given.start / "training.json").read_text())
    schedule = replace(SCHEDULE, images=given.images)
    if given.compile:
        model.net.compile(dynamic=False)
    curve = Curve(given.work / "training.csv", model, dataset.validation, dataset.classes, given.start)
    load = functools.partial(data.batches, dataset.train, batch=schedule.batch, seed=given.seed, augment=True)
    began = time.time()
    trained = fit(
        model.net,
        model.loss,
        lambda epoch: load(epoch=epoch),
        schedule,
        seed=given.seed,
        checkpoint=given.work / "state.safetensors",
        progress="baseline",
        on_epoch=curve.add,
        on_step=functools.partial(model.schedule_loss, model.net),
    )
    final = model.with_net(trained)
    record = {
        "compress": __version__,
        "generator_version": field_scenes.GENERATOR_VERSION,
        "data_fingerprint": dataset.fingerprint,
        "schedule": asdict(schedule),
        "seed": given.seed,
        "started_from": begun,
        "seconds_of_last_process": round(time.time() - began),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "validation": measure(final, dataset.validation, dataset.classes).row(),
    }
    checkpoint.save(final, given.out)
    (given.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (given.out / "training.csv").write_text(curve.path.read_text())
    curve.draw(given.out / "curve.png")
    print(json.dumps(record["validation"], indent=1))


def measure(model: UltralyticsDetector, split: data.Split, classes: tuple[str, ...]) -> Accuracy:
    """mAP of the deployed form on a split."""
    return evaluate(predictor(model.deployed()), model.decode, split, DETECT, classes, batch=16)


class Curve:
    """The learning curve: a CSV row an epoch, kept when training is resumed; after that of `start`, if given."""

    def __init__(
        self, path: Path, model: UltralyticsDetector, split: data.Split, classes: tuple[str, ...], start: Path | None
    ) -> None:
        self.path, self.model, self.split, self.classes = path, model, split, classes
        self.begun = Curve.read(start / "training.csv") if start else []

    def add(self, epoch: int, net: nn.Module, loss: float) -> None:
        """Measures the averaged network after an epoch (from 0)."""
        epoch += len(self.begun)
        rows = Curve.read(self.path) or self.begun
        rows = [row for row in rows if int(row["epoch"]) < epoch + 1]  # a cut-off epoch is measured again
        found = measure(self.model.with_net(net), self.split, self.classes)
        new = {
            "epoch": epoch + 1,
            "loss": f"{loss:.4f}",
            "map50_95": f"{found.value:.4f}",
            "map50": f"{found.map50:.4f}",
        }
        new |= {f"ap_{name}": f"{value:.4f}" for name, value in found.per_class.items()}
        with open(self.path, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(new))
            writer.writeheader()
            writer.writerows([*rows, new])
        logging.info("baseline: epoch %d, mAP50-95 %.4f, mAP50 %.4f", epoch + 1, found.value, found.map50)

    @staticmethod
    def read(path: Path) -> list[dict[str, str]]:
        if not path.exists():
            return []
        with open(path, newline="") as file:
            return list(csv.DictReader(file))

    def draw(self, path: Path) -> None:
        """A picture of mAP50-95 and mAP50 over epochs."""
        import matplotlib.pyplot as plt  # comes with Ultralytics, which this script needs anyway

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
