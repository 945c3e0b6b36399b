"""What every stage is handed besides its product: the run's config, data, cache and converted graphs."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress import checkpoint, disk, models, targets
from compress.budget import Check, Remark
from compress.cache import Cache
from compress.config import Config
from compress.data import DataSet
from compress.errors import TargetFailed
from compress.measure.weigh import Found
from compress.product import Graph, Model, identity
from compress.training_settings import TrainingSettings

log = logging.getLogger(__name__)


@dataclass
class Context:
    """One run's surroundings. `failures` collects targets that failed, {target: why}; the others go on."""

    config: Config
    data: DataSet
    folder: Path  # the run folder
    scratch: Path  # graphs on their way, deleted at the end
    cache: Cache
    settings: TrainingSettings | None = None  # None where nothing is trained
    baseline: Model | None = None  # what every row is compared with: the model as loaded, or as trained here
    unpruned: Model | None = None  # what fine-tuning may learn from, once something was pruned
    failures: dict[str, str] = field(default_factory=dict)
    contracts: list[Check] = field(default_factory=list)  # what was found of the artifacts' promises
    found: dict[str, Found] = field(default_factory=dict)  # what was measured of files, see `weigh_graph`
    stopped: Remark | None = None  # why the run ends at its baseline
    cached: bool = False  # whether the last cached step was found rather than made
    _graphs: dict[tuple[str, str], Graph] = field(default_factory=dict)

    @property
    def targets(self) -> list[str]:
        """Targets still standing."""
        return [target for target in self.config.targets or [] if target not in self.failures]

    def for_each_target(self, work: Callable[[str], Any]) -> list[Any]:
        """Results of `work(target)`; a target that fails is noted and left out from then on."""
        results = []
        for target in self.targets:
            try:
                results.append(work(target))
            except TargetFailed as error:
                if disk.problem(error, self.folder):
                    raise  # nothing is wrong with the target
                log.error("target %s failed: %s", target, error)
                self.failures[target] = str(error)
        return results

    def fp32_graph(self, model: Model, target: str) -> Graph:
        """The FP32 graph of `model` for a target, converted once a run however often it is asked for."""
        key = (identity(model), target)
        if key not in self._graphs:
            folder = self.scratch / f"{key[0][:12]}-{target}-fp32"
            self._graphs[key] = targets.get(target).convert(model, folder, self.config.export)
        return self._graphs[key]

    def cached_model(
        self, stage: str, model: Model, parts: Mapping[str, Any], make: Callable[[Path], Model], record: str = ""
    ) -> Model:
        """The model that `make(folder)` gives, from the cache where the same was made before.

        `parts` name what the result depends on besides the model, the data and the seed; `record` a file that `make`
        writes about it, which is copied into the run folder.
        """
        facts = {
            "model": identity(model),
            "constructor": model.constructor(),
            "data": self.data.fingerprint,
            "train_images": len(self.data.train),  # how many are held out for calibration is the config's choice
            "seed": self.config.seed,
            "numerics": self.settings.numerics if self.settings else None,
            **parts,
        }
        folder, self.cached = self.cache.fetch(
            stage, facts, lambda folder: checkpoint.save(make(folder), folder / "product")
        )
        if record:
            shutil.copyfile(folder / record, self.folder / record)
        return checkpoint.load(folder / "product", models.rebuilder(model))
