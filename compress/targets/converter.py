"""Converts models to the FP32 graphs of targets, once per run for each model and target."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from compress import cached_graphs, targets
from compress.cache import Cache
from compress.capabilities import Model
from compress.config import ExportConfig
from compress.product import Graph

VERSION = 1  # of the computation of `Target.convert`, for the cache


class Converter:
    """Writes FP32 graphs below `scratch`, each at its first request, or copies them from the cache."""

    def __init__(self, scratch: Path, config: ExportConfig, cache: Cache) -> None:
        self._scratch, self._config, self._cache = scratch, config, cache
        self._graphs: dict[tuple[str, str], Graph] = {}

    def fp32(self, model: Model, target: str) -> Graph:
        """Returns the FP32 graph of `model` for a target. Raises TargetFailed if the model cannot be converted."""
        key = (model.identity(), target)
        if key not in self._graphs:
            folder = self._scratch / f"{key[0][:12]}-{target}-fp32"
            parts = {**cached_graphs.model_key(model), "target": target, "export": asdict(self._config)}
            [self._graphs[key]], _, _ = cached_graphs.fetch(
                self._cache, "convert", {**parts, "version": VERSION},
                lambda entry: ([targets.get(target).convert(model, entry, self._config)], None), folder,
            )  # fmt: skip
        return self._graphs[key]
