"""What the benchmarks share: arguments, the recipe's model and data, cells in processes of their own, turns, tables."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from compress import data, models
from compress.cache import Cache
from compress.capabilities import Evaluable, Model, TorchModel, require
from compress.config import Config, compose
from compress.data import DataSet, Split, supervised
from compress.errors import UserError
from compress.measurement import accuracy
from compress.measurement.latency import Latency, interleaved
from compress.models.ultralytics_package import require_ultralytics
from compress.stages.context import Context
from compress.targets.converter import Converter
from compress.tasks.metric import Accuracy

Row = dict[str, Any]


def parser(description: str | None, **options: int) -> argparse.ArgumentParser:
    """A parser that shows a module's docstring; `options` are whole numbers with their defaults, such as threads=2."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in options.items():
        made.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    return made


def run(main: Callable[[], int | None]) -> int:
    """The exit status of a script: 2, with one line, where the user made a mistake."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        return main() or 0
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


@dataclass(frozen=True)
class Recipe:
    """A recipe's config, data and loaded model."""

    config: Config
    data: DataSet
    model: Model

    @classmethod
    def load(cls, *overrides: str) -> Recipe:
        """Composes and loads; sets torch's threads and seed as the config has them.

        Raises:
            UserError: a mistake in the overrides, or files that are not there.
        """
        config = models.resolve(compose(list(overrides)))
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        dataset = data.load(config.data, *config.model.input, config.seed)
        return cls(config, dataset, models.build(config.model, dataset.classes, dataset.task))

    @property
    def network(self) -> TorchModel:
        return require(self.model, TorchModel, "model", self.config.model.name)

    @contextmanager
    def context(self, cache: Path) -> Iterator[Context]:
        """The services of stages, with a folder that is deleted at the end."""
        with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
            folder = Path(scratch)
            yield Context(
                self.config, self.data, folder, folder, Cache(cache, self.config.cache),
                Converter(folder, self.config.export),
            )  # fmt: skip


def evaluate(model: Model, split: Split, classes: Sequence[str], predict: accuracy.Predict | None = None) -> Accuracy:
    """Accuracy of a model's deployed torch network, or of `predict`, on a split."""
    batch = 1 if predict else 16
    predict = predict or accuracy.predictor(model.deployed())
    decode = require(model, Evaluable, "model", model.task.name).decode
    return accuracy.evaluate(predict, decode, split, supervised(split), classes, batch=batch)


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[Latency, float, str]]:
    """{name: (latency, ratio to the first, that ratio as text)} of calls that take turns, 5 runs a turn."""
    timed = {}
    for name, took in interleaved(calls, rounds=rounds).items():
        assert took.ratio is not None and took.ratio_ci95 is not None  # interleaved always compares
        low, high = took.ratio_ci95
        timed[name] = (took, took.ratio, f"{took.ratio:.3f} ({low:.3f} to {high:.3f})")
    return timed


def in_own_process(script: str, arguments: Sequence[str], log: Path | None = None, seconds: int | None = None) -> str:
    """Standard output of a script in a fresh interpreter.

    Args:
        log: where all its output goes instead.

    Raises:
        RuntimeError: it failed, or took longer than `seconds`; says why in one line.
    """
    command = [sys.executable, script, *arguments]
    try:
        if log is not None:
            with open(log, "a") as file:
                done: Any = subprocess.run(command, stdout=file, stderr=file, timeout=seconds)
        else:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"not done after {seconds} s") from error
    if done.returncode:
        lines = [f"see {log}"] if log else done.stderr.strip().splitlines()
        raise RuntimeError((lines or [f"exit status {done.returncode}"])[-1])
    return done.stdout or ""


def isolate_ultralytics(folder: Path) -> None:
    """Keeps Ultralytics, not imported yet, off the network and away from the user's settings. It fetches a font for
    plots, drawn or not, unless a file of that name is among its settings."""
    settings = folder / "Ultralytics"
    settings.mkdir(parents=True, exist_ok=True)
    for font in ("Arial.ttf", "Arial.Unicode.ttf"):
        (settings / font).touch()
    os.environ.update(YOLO_CONFIG_DIR=str(folder), YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    require_ultralytics()


def ultralytics_data(folder: Path, split: Split, classes: Sequence[str]) -> Path:
    """A data.yaml for Ultralytics whose `train` and `val` are a split. Images and labels are linked: the package writes
    a cache file beside the labels, and the data set is not ours to write to."""
    from ultralytics.data.utils import img2label_paths

    for kind in ("images", "labels"):
        (folder / "data" / kind).mkdir(parents=True)
    for index, sample in enumerate(split.samples):
        image = Path(str(sample.source)).absolute()
        label = Path(img2label_paths([str(image)])[0])
        (folder / "data" / "images" / f"{index:06d}{image.suffix}").symlink_to(image)
        if label.is_file():
            (folder / "data" / "labels" / f"{index:06d}.txt").symlink_to(label)
    listed = {"path": str(folder / "data"), "train": "images", "val": "images", "names": dict(enumerate(classes))}
    (folder / "data.yaml").write_text(yaml.safe_dump(listed))
    return folder / "data.yaml"


def met(good: bool) -> str:
    """Whether a goal was met, as text."""
    return "met" if good else "NOT met"


def difference(left: np.ndarray, right: np.ndarray) -> float:
    """Largest difference, as a fraction of the largest value of `right`."""
    return float(np.abs(left - right).max() / np.abs(right).max())
