"""Reads what the microbenchmark of a bench kit has written. The file is from a device and is not trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from compress import typed_json
from compress.devices import graph_operators
from compress.devices.measured import Measurement
from compress.devices.operators import Operator
from compress.devices.prediction import BYTES, MICROBENCHMARK
from compress.errors import UserError
from compress.targets.bench_kit import blocks, onnx_file

SCHEMA_VERSION = 1
MIN_MS, MAX_MS = 1e-6, 1e9
LEAST, MOST = 20, 5000  # networks
MOST_BYTES = 2**24  # of the file
MAX_NAME_LENGTH = 200
REMEDY = "run microbenchmark.py again"


@dataclass(frozen=True)
class Timed:
    block: str
    ms: float


@dataclass(frozen=True)
class Microbenchmark:
    """What `microbenchmark.py` writes."""

    schema_version: int
    target: str
    precision: str
    device: str
    runtime: str
    threads: int | None
    blocks: tuple[Timed, ...]


def read(path: Path) -> Measurement:
    """The measurement in a file of `microbenchmark.py`. Raises UserError, which names the file and the field, if it is
    not such a file or has impossible values."""
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise UserError(str(path), f"{path.stat().st_size} bytes", f"a result has at most {MOST_BYTES}: {REMEDY}")
    result = typed_json.read(Microbenchmark, path, REMEDY)
    names = {name: getattr(result, name) for name in ("target", "device", "runtime")}
    count = len(result.blocks)
    rules: list[tuple[bool, str, object, str]] = [  # (good, field, value, remedy)
        (
            result.schema_version == SCHEMA_VERSION,
            "schema_version",
            result.schema_version,
            f"expected {SCHEMA_VERSION}",
        ),
        (result.precision in BYTES, "precision", repr(result.precision[:40]), f"choose from {', '.join(BYTES)}"),
        *((_is_name(text), name, repr(text[:40]), "expected one printable line") for name, text in names.items()),
        (result.threads is None or result.threads > 0, "threads", result.threads, "expected a positive number"),
        (LEAST <= count <= MOST, "blocks", count, f"expected {LEAST} to {MOST} networks: {REMEDY}"),
        *((MIN_MS <= each.ms <= MAX_MS, "ms", each.ms, "expected a positive number") for each in result.blocks),
    ]
    for good, name, value, remedy in rules:
        if not good:
            raise UserError(f"{path}: {name}", value, remedy)
    timed = [(MICROBENCHMARK, each.ms, _operators(each.block, path)) for each in result.blocks]
    return Measurement.of(result.device, result.target, result.precision, result.threads, result.runtime, timed)


def _operators(text: str, path: Path) -> list[Operator]:
    try:
        block = blocks.Block(text)
    except ValueError as error:
        raise UserError(f"{path}: blocks", text[:60], f"{error}: {REMEDY}") from error
    return graph_operators.read(onnx.load_from_string(onnx_file.encode(block)))


def _is_name(text: str) -> bool:
    return bool(text.strip()) and len(text) <= MAX_NAME_LENGTH and text.isprintable()
