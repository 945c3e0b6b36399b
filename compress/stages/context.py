"""What every stage is given besides its product: configuration, data, folders, cache and the converter of graphs."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from compress import checkpoint, disk, models
from compress.cache import Cache
from compress.capabilities import Checkpointable, Model, TorchModel, require
from compress.config import Config
from compress.data import DataSet
from compress.errors import TargetFailed
from compress.product import Product
from compress.targets.converter import Converter
from compress.training.settings import TrainingSettings

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """The services of one run."""

    config: Config
    data: DataSet
    folder: Path  # the run folder
    scratch: Path  # graphs that are not exported yet; deleted at the end
    cache: Cache
    converter: Converter
    settings: TrainingSettings | None = None  # None where nothing is trained

    def for_each_target(self, product: Product, work: Callable[[str], T]) -> tuple[list[T], dict[str, str]]:
        """Results of `work(target)` for each target that has not failed, and {target: reason} of all that have."""
        results, failures = [], dict(product.failures)
        for target in self.config.targets or []:
            if target in failures:
                continue
            try:
                results.append(work(target))
            except TargetFailed as error:
                if disk.problem(error, self.folder):
                    raise  # the target is not the cause
                log.error("target %s failed: %s", target, error)
                failures[target] = str(error)
        return results, failures

    def cached_model(
        self,
        stage: str,
        model: Model,
        parts: Mapping[str, Any],
        make: Callable[[Path], TorchModel],
        record: str = "",
    ) -> tuple[Checkpointable, bool]:
        """The model that `make(folder)` returns, or the cached result of the same inputs; and whether it was cached.

        Args:
            parts: what the result depends on besides the model, the data and the seed.
            record: name of a file that `make` writes in its folder, which is copied into the run folder.
        """
        source = require(model, Checkpointable, "stages", stage)
        inputs = {
            "model": source.identity(),
            "constructor": source.constructor(),
            "data": self.data.fingerprint,
            "train_images": len(self.data.train),  # how many are held out for calibration is the config's choice
            "seed": self.config.seed,
            "numerics": self.settings.numerics if self.settings else None,
            **parts,
        }
        folder, cached = self.cache.fetch(
            stage,
            inputs,
            lambda folder: checkpoint.save(require(make(folder), Checkpointable, "stages", stage), folder / "product"),
        )
        if record:
            shutil.copyfile(folder / record, self.folder / record)
        return checkpoint.load(folder / "product", models.rebuilder(source)), cached
