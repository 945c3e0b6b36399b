"""What stages pass on: a model, and later one model file per target and precision."""

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


ENGINE = "model.engine"  # in the folder of the ONNX file that it was built from


@dataclass(frozen=True)
class Graph:
    """A model file of one target, such as an ONNX file or OpenVINO's xml."""

    path: Path
    target: str
    precision: Precision
    scheme: str = ""  # how it was quantized, for people
    exclusions: Mapping[str, str] = field(default_factory=dict)  # {layer or node that stays in float: reason}
    calibration: Mapping[str, Any] = field(default_factory=dict)  # images, fingerprint, method
    postprocess: TopK | None = None  # to apply to the file's output, if the runtime cannot do it

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file the runtime needs: OpenVINO and ncnn keep the weights in a .bin beside the graph."""
        return (self.path, self.path.with_suffix(".bin")) if self.path.suffix in (".xml", ".param") else (self.path,)

    @property
    def engine(self) -> Path | None:
        """The engine built from the file, which runs in its place (TensorRT); None if there is none."""
        path = self.path.with_name(ENGINE)
        return path if path.exists() else None


@dataclass(frozen=True)
class Reference:
    """The model before pruning, which teaches the pruned one in distillation.

    `model` is None if a checkpoint names its reference but the files of the reference are missing.
    """

    identity: str
    flops: int  # of the deployed form, at `imgsz`
    imgsz: int  # pixels
    path: str | None = None  # where to load it from
    model: Model | None = None


@dataclass(frozen=True)
class Product:
    """Input and output of a stage.

    Attributes:
        model: the model after the stages so far; `graphs` are exported from it.
        reference: the model before pruning; None if nothing was pruned.
        graphs: model files, after quantize and export.
        cached: the stage's result was read from the cache.
        failures: targets that failed so far, {target: reason}; later stages skip them.
        contracts: acceptance checks of the exported files.
    """

    model: Model
    reference: Reference | None = None
    graphs: tuple[Graph, ...] = ()
    cached: bool = False
    failures: Mapping[str, str] = field(default_factory=dict)
    contracts: tuple[Check, ...] = ()
