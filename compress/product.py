"""What travels between stages: a model first, later one model file per target and precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from compress.budget import Check
from compress.capabilities import Model, TopK


class Precision(StrEnum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


ENGINE = "model.engine"  # beside the ONNX file it was built of


@dataclass(frozen=True)
class Graph:
    """One model file of one target: ONNX, or OpenVINO's xml (its bin beside it), say. `files` are all it needs."""

    path: Path
    target: str
    precision: Precision
    scheme: str = ""  # how it was quantized, as text
    exclusions: Mapping[str, str] = field(default_factory=dict)  # {layer or node left in float: reason}
    calibration: Mapping[str, Any] = field(default_factory=dict)  # images, fingerprint, method
    postprocess: TopK | None = None  # what is left to do with the file's output, where its runtime cannot

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file the runtime needs: OpenVINO and ncnn keep the weights in a .bin beside the graph."""
        return (self.path, self.path.with_suffix(".bin")) if self.path.suffix in (".xml", ".param") else (self.path,)

    @property
    def engine(self) -> Path | None:
        """What was built of the file ahead of time and runs in its place (TensorRT); None where there is none."""
        path = self.path.with_name(ENGINE)
        return path if path.exists() else None


@dataclass(frozen=True)
class Reference:
    """The model before pruning: what a pruned model may learn from, and how much was removed since.

    `model` is None where a checkpoint knows its reference and the files of that are gone.
    """

    identity: str
    flops: int  # of the deployed form, at `imgsz`
    imgsz: int  # pixels
    path: str | None = None  # where it can be loaded from
    model: Model | None = None


@dataclass(frozen=True)
class Product:
    """What a stage takes and returns.

    Attributes:
        model: the model that the stages so far have made; `graphs` are made of it.
        reference: the model before pruning; None where nothing was pruned.
        graphs: model files, after quantize and export.
        cached: the stage's result was read from the cache.
        failures: targets that failed so far, {target: reason}; later stages leave them out.
        contracts: acceptance checks of the exported files.
    """

    model: Model
    reference: Reference | None = None
    graphs: tuple[Graph, ...] = ()
    cached: bool = False
    failures: Mapping[str, str] = field(default_factory=dict)
    contracts: tuple[Check, ...] = ()
