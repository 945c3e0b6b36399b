"""Shared parts of the benchmarks: arguments, recipe loading, subprocesses, interleaved timing, Ultralytics set-up."""

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
    """An argument parser with integer options; `options` are their defaults, for example threads=2."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in options.items():
        result.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    return result


def run(main: Callable[[], int | None]) -> int:
    """Runs `main` and returns the exit status of the script. A UserError prints one line and returns 2."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        return main() or 0
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


@dataclass(frozen=True)
class Recipe:
    """The configuration, data and loaded model of a recipe."""

    config: Config
    data: DataSet
    model: Model

    @classmethod
    def load(cls, *overrides: str) -> Recipe:
        """Composes the configuration, sets torch's threads and seed from it, and loads data and model.

        Raises:
            UserError: an override is invalid, or a file is missing.
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
        """The context that stages need, with a temporary run folder and the cache in `cache`."""
        with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
            folder = Path(scratch)
            store = Cache(cache, self.config.cache)
            converter = Converter(folder, self.config.export, store)
            yield Context(self.config, self.data, folder, folder, store, converter)


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fits (a, b) of ms = a + b x GFLOPs to points (GFLOPs, ms) by least squares of the relative error: small networks
    have the same weight as large ones."""
    gflops, ms = np.array(points).T
    a, b = np.linalg.lstsq(np.stack([1 / ms, gflops / ms], axis=1), np.ones_like(ms), rcond=None)[0]
    return float(a), float(b)


def evaluate(model: Model, split: Split, classes: Sequence[str], predict: accuracy.Predict | None = None) -> Accuracy:
    """Accuracy on a split, of `predict` at batch 1 if set, else of the model's deployed torch network."""
    batch = 1 if predict else 16
    predict = predict or accuracy.predictor(model.deployed())
    decode = require(model, Evaluable, "model", model.task.name).decode
    return accuracy.evaluate(predict, decode, split, supervised(split), classes, batch=batch)


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[Latency, float, str]]:
    """Times calls in alternation, 5 runs a turn. Returns {name: (latency, ratio to the first call, ratio as text)}."""
    timed = {}
    for name, latency in interleaved(calls, rounds=rounds).items():
        assert latency.ratio is not None and latency.ratio_ci95 is not None  # interleaved always compares
        low, high = latency.ratio_ci95
        timed[name] = (latency, latency.ratio, f"{latency.ratio:.3f} ({low:.3f} to {high:.3f})")
    return timed


def in_own_process(script: str, arguments: Sequence[str], log: Path | None = None, seconds: int | None = None) -> str:
    """Runs a script in a fresh interpreter and returns its standard output.

    Args:
        log: file to append all output to; the return value is then empty.

    Raises:
        RuntimeError: the script failed or took longer than `seconds`; the message is one line.
    """
    command = [sys.executable, script, *arguments]
    try:
        if log is not None:
            with open(log, "a") as file:
                completed: Any = subprocess.run(command, stdout=file, stderr=file, timeout=seconds)
        else:
            completed = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"timed out after {seconds} s") from error
    if completed.returncode:
        lines = [f"see {log}"] if log else completed.stderr.strip().splitlines()
        raise RuntimeError((lines or [f"exit status {completed.returncode}"])[-1])
    return completed.stdout or ""


def isolate_ultralytics(folder: Path) -> None:
    """Keeps Ultralytics off the network and away from the user's settings; call it before Ultralytics is imported.

    Ultralytics downloads a font, even without plots, unless its settings folder contains a file of that name.
    """
    settings = folder / "Ultralytics"
    settings.mkdir(parents=True, exist_ok=True)
    for font in ("Arial.ttf", "Arial.Unicode.ttf"):
        (settings / font).touch()
    os.environ.update(YOLO_CONFIG_DIR=str(folder), YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    require_ultralytics()


def ultralytics_data(folder: Path, split: Split, classes: Sequence[str], labels: str = "labels") -> Path:
    """Writes a data.yaml for Ultralytics whose `train` and `val` are both `split`, and returns its path.

    Images and labels are symbolic links, because Ultralytics writes a cache file beside the labels. `labels` names the
    folder of the label files, beside the folder `images`.
    """
    for kind in ("images", "labels"):
        (folder / "data" / kind).mkdir(parents=True)
    for index, sample in enumerate(split.samples):
        image = Path(str(sample.source)).absolute()
        label = Path(str(image).replace("/images/", f"/{labels}/")).with_suffix(".txt")
        (folder / "data" / "images" / f"{index:06d}{image.suffix}").symlink_to(image)
        if label.is_file():
            (folder / "data" / "labels" / f"{index:06d}.txt").symlink_to(label)
    names = dict(enumerate(classes))
    content: Row = {"path": str(folder / "data"), "train": "images", "val": "images", "names": names}
    if (keypoints := getattr(split.task, "keypoints", None)) is not None:
        content["kpt_shape"] = list(keypoints)
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def met(good: bool) -> str:
    """Text that states whether a goal was met."""
    return "met" if good else "NOT met"


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference, relative to the largest absolute value of `expected`."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
