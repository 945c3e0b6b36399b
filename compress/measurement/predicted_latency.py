"""Predicted latency of torch models on the device of a run, which is not at hand. Nothing is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from compress import devices, targets
from compress.capabilities import TorchModel
from compress.config import Config, ExportConfig
from compress.devices import graph_operators, measured
from compress.devices.forecast import File
from compress.devices.prediction import Prediction, calibrate
from compress.errors import UserError
from compress.measurement import layer_latency


class PredictedLatency:
    """Predicts latencies in the files that a run makes for its device: those of its targets, INT8 only if it quantizes.

    Raises UserError if the latency of none of them can be predicted; it states what is missing.
    """

    def __init__(self, config: Config) -> None:
        device = config.device
        self._model = calibrate(device, measured.known(device.name))
        self.files = _files(config)
        unknown = [self._model.unknown(*file) for file in self.files]
        if not self.files:
            remedy = f"its chip computes {', '.join(device.precisions)}, and the run makes no such file: set targets"
            raise UserError("device", device.name, remedy)
        if all(unknown):
            remedy = "add the figure to a profile of your own (see docs/user-guide/devices.md#add-a-device)"
            raise UserError("device", device.name, f"its latency cannot be predicted: {unknown[0]}: {remedy}")

    def of(self, model: TorchModel) -> tuple[File, Prediction]:
        """The fastest file and its latency. Raises UserError if an operator of the exported graph is not known."""
        with TemporaryDirectory(prefix="compress-") as scratch:
            graph = targets.get("onnxruntime").convert(model, Path(scratch), ExportConfig())
            operators = graph_operators.read(onnx.load(graph.path))
        found = devices.fastest(self._model, self.files, operators)
        assert found is not None  # as ensured by __init__
        return found

    def node_seconds(self, paths: Sequence[Path]) -> tuple[File, list[dict[str, float]]]:
        """The fastest file for the last of the FP32 ONNX files `paths` and, for each of them, {node: seconds} in such a
        file. Raises UserError as `of` does."""
        found = devices.fastest(self._model, self.files, graph_operators.read(onnx.load(paths[-1])))
        assert found is not None  # as ensured by __init__
        file, _ = found
        return file, [layer_latency.predicted_node_seconds(path, self._model, *file) for path in paths]

    def layer_seconds(self, model: TorchModel) -> dict[str, float]:
        """{convolution or linear layer of the deployed form: seconds per image} in the fastest file. Errors as `of`."""
        (runtime, precision), _ = self.of(model)
        return layer_latency.predicted_layer_seconds(model, self._model, runtime, precision)

    def cache_key(self) -> dict[str, Any]:
        """What predictions depend on, beside the network."""
        return {"files": self.files, "model": self._model.cache_key()}


def _files(config: Config) -> list[File]:
    """The files that a run makes and the chip of its device supports. If it makes none, those that it could make."""
    result = []
    for name in config.targets or config.device.targets:
        target = targets.get(name)
        made = [target.FLOAT, target.QUANTIZED] if "quantize" in config.stages else [target.FLOAT]
        result += [(name, precision.value) for precision in dict.fromkeys(made)]
    return devices.supported(config.device, result)
