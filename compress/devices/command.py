"""`compress devices`: the measurements of devices that predictions are calibrated with."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from compress.budget.selection import plain
from compress.devices import measured
from compress.devices.measured import Measurement
from compress.devices.prediction import MICROBENCHMARK
from compress.errors import Parser, UserError


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 2 after a user error."""
    try:
        _command(arguments)
    except UserError as error:
        print(f"compress: error: {error}", file=sys.stderr)
        return 2
    return 0


def _command(arguments: list[str]) -> None:
    parser = Parser(prog="compress devices", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all measurements and their files")
    add = commands.add_parser("add", help="add the microbenchmark.json of a bench kit")
    add.add_argument("file", type=Path)
    add.add_argument("--device", help="name of the profile (default: the name in the file)")
    remove = commands.add_parser("remove", help="remove the measurements of a device, or one of them")
    remove.add_argument("device")
    remove.add_argument("file", nargs="?", help="name of the file, as `list` shows it (default: all)")
    options = parser.parse_args(arguments)
    if options.command == "add":
        from compress.devices import microbenchmark  # imports torch, which takes seconds

        read = microbenchmark.read(options.file)
        path = measured.add(replace(read, device=plain(options.device or read.device)))
        print(f"added {_contents(read)}: {path}")
    elif options.command == "remove":
        _remove(options.device, options.file)
    else:
        _list()


def _list() -> None:
    for device in sorted(path.name for path in measured.folder().glob("*") if path.is_dir()):
        for path, measurement in measured.files(device).items():
            threads = "" if measurement.threads is None else f", threads {measurement.threads}"
            print(f"{device}  {path.name}  {measurement.software}{threads}, {_contents(measurement)}")
    print(f"folder: {measured.folder()}")


def _contents(measurement: Measurement) -> str:
    counts = Counter(network.name for network in measurement.networks)
    small = counts.pop(MICROBENCHMARK, 0)
    texts = [f"a microbenchmark of {small} networks"] if small else []
    texts += [
        f"{name} {ms:.3g} ms" for name, ms in ((each.name, each.ms) for each in measurement.networks) if name in counts
    ]
    return f"{measurement.runtime} {measurement.precision.upper()}: {', '.join(texts)}"


def _remove(device: str, name: str | None) -> None:
    """Deletes files without reading them, so that damaged ones can be removed."""
    paths = list((measured.folder() / device).glob("*.json")) if measured.DEVICE.fullmatch(device) else []
    selected = [path for path in paths if name in (None, path.name)]
    if not selected:
        raise UserError("remove", name or device, "there is no such measurement: `compress devices list` shows all")
    for path in selected:
        path.unlink()
        print(f"removed {path}")
