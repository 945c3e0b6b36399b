"""What was measured on devices: latencies of whole networks and microbenchmarks, which predictions are calibrated with.
Imports no torch.

A measurement is a JSON file below a folder of the user, `<device>/<runtime>-<precision>-<hash>.json`. It contains the
operators of the networks, so it depends on no run and no model file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from compress import atomic, typed_json
from compress.devices.operators import Operator
from compress.devices.prediction import BYTES, Timing, published
from compress.digest import digest
from compress.errors import UserError

SCHEMA_VERSION = 1
FOLDER = "COMPRESS_DEVICES"  # environment variable that names the folder
DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
REMEDY = "remove it with `compress devices remove`"


@dataclass(frozen=True)
class Network:
    name: str
    ms: float  # median latency at batch 1
    operators: tuple[int, ...]  # indices into the operators of the measurement


@dataclass(frozen=True)
class Measurement:
    """Latencies on a device in one runtime and precision."""

    schema_version: int
    device: str
    runtime: str  # a target's name
    precision: str
    threads: int | None  # None: chosen by the runtime
    software: str  # name and version of the runtime
    added: str  # UTC, ISO 8601
    networks: tuple[Network, ...]
    operators: tuple[Operator, ...]

    @classmethod
    def of(
        cls, device: str, runtime: str, precision: str, threads: int | None, software: str,
        latencies: Sequence[tuple[str, float, Sequence[Operator]]],
    ) -> Measurement:  # fmt: skip
        """`latencies` are (network, ms, operators)."""
        index: dict[Operator, int] = {}
        networks = tuple(
            Network(name, ms, tuple(index.setdefault(each, len(index)) for each in operators))
            for name, ms, operators in latencies
        )
        added = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(SCHEMA_VERSION, device, runtime, precision, threads, software, added, networks, tuple(index))

    def timings(self) -> list[Timing]:
        return [
            Timing(each.name, [self.operators[i] for i in each.operators], self.runtime, self.precision, each.ms)
            for each in self.networks
        ]


def folder() -> Path:
    """The folder of all measurements: `$COMPRESS_DEVICES`, or `compress/devices` in the user's data folder."""
    if named := os.environ.get(FOLDER):
        return Path(named)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "compress" / "devices"


def add(measurement: Measurement) -> Path:
    """Stores a measurement and returns its file. The same one is stored once. Raises UserError if the device's name
    cannot be the name of a folder, or the folder cannot be written."""
    if not DEVICE.fullmatch(measurement.device):
        remedy = "use the name of a profile (device=), of letters, digits, `_`, `.` and `-`"
        raise UserError("device", measurement.device, remedy)
    content = asdict(measurement)
    key = digest({**content, "added": ""})[:10]
    path = folder() / measurement.device / f"{measurement.runtime}-{measurement.precision}-{key}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, json.dumps(content))
    except OSError as error:
        raise UserError(FOLDER, folder(), f"it cannot be written: {error}") from error
    return path


def files(device: str) -> dict[Path, Measurement]:
    """The measurements of a device. Raises UserError if one is damaged; it names the file."""
    result = {}
    for path in sorted((folder() / device).glob("*.json")) if DEVICE.fullmatch(device) else ():
        read = typed_json.read(Measurement, path, REMEDY)
        good = read.schema_version == SCHEMA_VERSION and read.precision in BYTES
        good = good and all(0 <= i < len(read.operators) for each in read.networks for i in each.operators)
        if not good or not all(each.ms > 0 and each.operators for each in read.networks):
            raise UserError(str(path), "damaged", REMEDY)
        result[path] = read
    return result


def known(device: str) -> list[Timing]:
    """All latencies on a device: the published ones and the user's. Of those of the user in one runtime and precision,
    only those with as many threads as the last one added."""
    measurements = sorted(files(device).values(), key=lambda each: each.added)
    threads = {(each.runtime, each.precision): each.threads for each in measurements}
    selected = [each for each in measurements if each.threads == threads[each.runtime, each.precision]]
    return published(device) + [timing for each in selected for timing in each.timings()]


def fingerprint(device: str) -> list[str]:
    """Names of the files that predictions for a device depend on; they contain hashes of the contents."""
    return [path.name for path in files(device)]
