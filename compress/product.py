"""What stages pass to the next: a torch model and, from `quantize` on, one model file per target and precision."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from compress.budget import Check
from compress.capabilities import Model, TopK


class Precision(StrEnum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


ENGINE = "model.engine"  # built by TensorRT from the ONNX file in the same folder


@dataclass(frozen=True)
class Graph:
    """A model file for one target (a runtime to export to), such as an ONNX file or OpenVINO's .xml."""

    path: Path
    target: str
    precision: Precision
    scheme: str = ""  # readable description of the quantization; "" if none
    exclusions: Mapping[str, str] = field(default_factory=dict)  # {layer or node that stays in float: reason}
    calibration: Mapping[str, Any] = field(default_factory=dict)  # images, method, split, fingerprint of the data
    postprocess: TopK | None = None  # to apply to the file's output, if the runtime cannot do it

    @property
    def files(self) -> tuple[Path, ...]:
        """The model file and, for OpenVINO and ncnn, the .bin with its weights; not the engine."""
        return (self.path, self.path.with_suffix(".bin")) if self.path.suffix in (".xml", ".param") else (self.path,)

    @property
    def engine(self) -> Path | None:
        """Path of the TensorRT engine, which is executed instead of the model file; None if the disk has none."""
        path = self.path.with_name(ENGINE)
        return path if path.exists() else None

    def contents(self) -> list[str]:
        """SHA-256 of each of `files`."""
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in self.files]

    def as_dict(self, folder: Path) -> dict[str, Any]:
        """JSON-like, with the path relative to `folder`."""
        return {**asdict(self), "path": self.path.relative_to(folder).as_posix()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], folder: Path) -> Graph:
        """The graph that `as_dict` described, in another folder."""
        postprocess = values["postprocess"] and TopK(**values["postprocess"])
        known = {"path": folder / values["path"], "precision": Precision(values["precision"])}
        return cls(**{**values, **known, "postprocess": postprocess})


@dataclass(frozen=True)
class Reference:
    """The model before the first pruning, the default teacher in distillation."""

    identity: str  # `Model.identity`: a hash of the tensors
    flops: int  # 2 x MACs of one image of size `imgsz`, in the deployed form (`Model.deployed`)
    imgsz: int  # side of the square input, in pixels
    path: str | None = None  # where to load it from
    model: Model | None = None  # None if a checkpoint names its reference, but the reference cannot be loaded
    # {layer of `Prunable.prunable`: its output channels that are left}, narrowed layers only. None if unknown.
    kept: Mapping[str, Sequence[int]] | None = None


@dataclass(frozen=True)
class Product:
    """Input and output of a stage."""

    model: Model  # after the stages so far
    reference: Reference | None = None  # None if nothing was pruned, or if it is unknown
    graphs: tuple[Graph, ...] = ()  # exported from `model`; empty before the stages quantize and export
    cached: bool = False  # the stage's result was read from the cache
    failures: Mapping[str, str] = field(default_factory=dict)  # {target that failed: reason}; later stages skip it
    acceptance_checks: tuple[Check, ...] = ()  # of the exported files, run by `export` in a new process
