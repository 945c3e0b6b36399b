"""Converts models to the FP32 graphs of targets, once per run for each model and target."""

from __future__ import annotations

from pathlib import Path

from compress import targets
from compress.capabilities import Model
from compress.config import ExportConfig
from compress.product import Graph


class Converter:
    """Writes FP32 graphs below `scratch`, each at its first request."""

    def __init__(self, scratch: Path, config: ExportConfig) -> None:
        self._scratch, self._config = scratch, config
        self._graphs: dict[tuple[str, str], Graph] = {}

    def fp32(self, model: Model, target: str) -> Graph:
        """Returns the FP32 graph of `model` for a target. Raises TargetFailed if the model cannot be converted."""
        key = (model.identity(), target)
        if key not in self._graphs:
            folder = self._scratch / f"{key[0][:12]}-{target}-fp32"
            self._graphs[key] = targets.get(target).convert(model, folder, self._config)
        return self._graphs[key]
