"""The services of a run that stages use: configuration, data, folders, cache and converter."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import torch

from compress import checkpoint, disk, models
from compress.cache import Cache
from compress.capabilities import Checkpointable, Model, TorchModel, require
from compress.config import Config
from compress.data import DataSet
from compress.errors import TargetFailed
from compress.product import Product
from compress.targets.converter import Converter
from compress.training import curve
from compress.training.placement import Placement
from compress.training.settings import TrainingSettings

T = TypeVar("T")

Metrics = Callable[[str, int, curve.Values], None]  # called with the training's name, the step and the values

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """The services of one run."""

    config: Config
    data: DataSet
    folder: Path  # the run folder
    scratch: Path  # graphs before export; deleted at the end of the run
    cache: Cache
    converter: Converter
    settings: TrainingSettings | None = None  # None if nothing is trained
    placement: Placement = field(default_factory=Placement)  # where networks are trained and evaluated
    metrics: Metrics = lambda *_: None  # receives the curves of all trainings

    @property
    def device(self) -> torch.device:
        """Where this process trains and evaluates networks."""
        return self.placement.device()

    def report(self, training: str) -> curve.Report:
        """Returns a function that passes the points of a training on to `metrics`."""
        return lambda step, values: self.metrics(training, step, values)

    def with_prefix(self, prefix: str) -> Self:
        """This context, with `prefix/` before the names of trainings."""
        return replace(self, metrics=lambda name, *point: self.metrics(f"{prefix}/{name}", *point))

    def for_each_target(self, product: Product, work: Callable[[str], T]) -> tuple[list[T], dict[str, str]]:
        """Calls `work` with every target that has not failed. Returns the results and {target: reason} of failures."""
        results, failures = [], dict(product.failures)
        for target in [each for each in self.config.targets or [] if each not in failures]:
            try:
                results.append(work(target))
            except TargetFailed as error:
                if disk.problem(error, self.folder):
                    raise  # not caused by the target
                log.error("target %s failed: %s", target, error)
                failures[target] = str(error)
        return results, failures

    def cached_model(
        self, stage: str, model: Model, parts: Mapping[str, Any], make: Callable[[Path], TorchModel], record: str = ""
    ) -> tuple[Checkpointable, bool]:
        """Returns the model that `make(folder)` makes, or the cached one of the same inputs, and whether it was cached.
        `parts` is what else the result depends on, besides the model, the data and the seed. `record` names a file that
        `make` writes; it is copied into the run folder. The curves of a cached model's trainings are reported again."""
        source = require(model, Checkpointable, "stages", stage)
        inputs = {
            "model": source.identity(),
            "constructor": source.constructor(),
            "data": self.data.fingerprint,
            "train_images": len(self.data.train),  # depends on how many are held out for calibration
            "seed": self.config.seed,
            "numerics": self.settings.numerics if self.settings else None,
            **parts,
        }

        def make_and_save(folder: Path) -> None:
            checkpoint.save(require(make(folder), Checkpointable, "stages", stage), folder / "product")

        folder, cached = self.cache.fetch(stage, inputs, make_and_save)
        if cached:
            self.report_curves(folder, stage)
        if record:
            shutil.copyfile(folder / record, self.folder / record)
        return checkpoint.load(folder / "product", models.rebuilder(source)), cached

    def report_curves(self, folder: Path, training: str) -> None:
        """Reports the curves of finished trainings whose files are below `folder`: one in `folder` itself as
        `training`, one in its subfolder X as `training/X`."""
        for file in sorted(folder.rglob(curve.FILE)):
            name = "/".join((training, *file.relative_to(folder).parts[:-1]))
            for step, values in curve.read(file):
                self.metrics(name, step, values)
