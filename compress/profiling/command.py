"""`compress profile MODEL ...`: FLOPs, bytes and latency of models, per layer, and this machine's roofline.

A MODEL is a name of the group `model`, an Ultralytics architecture such as yolo11s-seg, timm/NAME, pkg.module.Net, a
file .onnx, .xml (OpenVINO), .tflite or .pt, or the folder of a checkpoint. No data is needed, and nothing is changed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from compress import atomic
from compress.config import device_profiles
from compress.errors import Parser, TargetFailed, UserError, one_line
from compress.host import host, usable_threads
from compress.measurement import roofline
from compress.measurement.roofline import Roofline
from compress.profiling import plot, predictions, source, table
from compress.profiling.predictions import Forecast, forecasts
from compress.profiling.profile import Counted, Profile, as_dict, count, profile
from compress.profiling.subject import Subject

LAYERS = 20  # shown of each model
OTHERS = "use other operators instead"  # end of the error of `graph_cost.count`
ADD = "add what is missing, or a latency, to the profile of the device, or name other devices or a float32 file"
PLAIN_WIDTH = 300  # of output that is not a terminal


def main(arguments: list[str]) -> int:
    """Exit status: 0; 2 after a user error, or if a model cannot be exported."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        options = _parsed(arguments)
        _profile(options)
    except UserError as error:
        print(f"compress: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="compress profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="compress profile model=NAME data=... measures accuracy too: it is compress run recipe=profile",
    )  # fmt: skip
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--imgsz", type=int, help="side of the square input in pixels (default: the model's own)")
    parser.add_argument("--channels", type=int, help="of the image, for files that leave them open")
    unknown_help = "operators without a formula: refuse them, or warn and count them apart (default: %(default)s)"
    parser.add_argument("--unknown", choices=["error", "warn"], default="error", help=unknown_help)
    parser.add_argument(
        "--threads", type=int, default=usable_threads(), help="default: all that may be used, %(default)s"
    )
    parser.add_argument("--sort", choices=list(table.ORDERS), default="time", help="order of the layers")
    parser.add_argument(
        "--layers", type=int, help=f"layers to show; 0: all (default: {LAYERS}; none of several models)"
    )
    devices_help = "predict the latency on devices: all, or names separated by commas"
    parser.add_argument("--devices", metavar="NAMES", help=devices_help)
    parser.add_argument("--config-dir", type=Path, help="folder with profiles of your own, in its subfolder device/")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="one line per layer")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="roofline plot, an SVG")
    options = parser.parse_args(arguments)
    for name, least in (("imgsz", 1), ("channels", 1), ("threads", 1), ("layers", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name}", value, f"set {least} or more")
    for name in ("json", "csv", "plot"):
        path = getattr(options, name)
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UserError(f"--{name}", path, "set a file in a folder that exists")
    return options


def _profile(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    with TemporaryDirectory(prefix="compress-") as scratch:
        folders = [Path(scratch, str(index)) for index in range(len(options.models))]
        for folder in folders:
            folder.mkdir()
        found = [  # mistakes before any work
            source.find(word, folder, options.imgsz, options.channels)
            for word, folder in zip(options.models, folders, strict=True)
        ]
        names = None if options.devices == "all" else (options.devices or "").split(",")
        devices = {} if options.devices is None else device_profiles(names, options.config_dir)
        counted = [_counted(word, load, options) for word, load in zip(options.models, found, strict=True)]
        predicted, unknown = forecasts(counted, devices)
        if devices and not predicted:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in unknown.items())
            raise UserError("--devices", options.devices, f"nothing can be predicted ({reasons}): {ADD}")
        roof, profiles = roofline.of_host(options.threads), []
        for each in counted:
            try:
                profiles.append(profile(each, options.threads, roof))
            except TargetFailed as error:
                raise UserError("model", each.name, one_line(error)) from error
    _write(profiles, roof, predicted, options)
    console = _console()
    _print(console, profiles, options)
    if devices:
        console.print(predictions.table(predicted))
        console.print(predictions.ENERGIES, style="dim", highlight=False, soft_wrap=True)
        for name, reason in unknown.items():
            console.print(f"{name}: unknown, {reason}", highlight=False, soft_wrap=True)
    console.print(f"{host().cpu}, {table.machine(roof)}", highlight=False, soft_wrap=True)
    console.print(table.NOTES, style="dim", highlight=False, soft_wrap=True)


def _counted(word: str, load: Callable[[], Subject], options: argparse.Namespace) -> Counted:
    try:
        return count(word, load(), options.unknown)
    except TargetFailed as error:
        raise UserError("model", word, one_line(error)) from error
    except UserError as error:  # names an operator
        remedy = error.remedy.replace(OTHERS, f"{OTHERS}, or count it apart with --unknown warn")
        raise UserError("model", f"{word}, {error.value}", remedy) from error


def _write(profiles: list[Profile], roof: Roofline, predicted: list[Forecast], options: argparse.Namespace) -> None:
    forecast = [each.as_dict() for each in predicted]
    for path, content in (
        (options.json, lambda: json.dumps({**as_dict(profiles, roof), "predictions": forecast}, indent=1)),
        (options.csv, lambda: table.as_csv(profiles, options.sort)),
        (options.plot, lambda: plot.roofline_svg(profiles, roof)),
    ):
        if path is not None:
            atomic.write(path, content())


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def _print(console: Console, profiles: list[Profile], options: argparse.Namespace) -> None:
    console.print(table.models(profiles))
    console.print(table.speeds(profiles))
    for profiled in profiles:
        for line in table.arithmetic(profiled):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    most = options.layers if options.layers is not None else LAYERS
    if len(profiles) == 1 or options.layers is not None:
        for profiled in profiles:
            if len(profiles) > 1:
                console.print(profiled.name, style="bold", highlight=False)
            console.print(table.layers(profiled, options.sort, most))
            if most and len(profiled.layers) > most:
                rest = len(profiled.layers) - most
                console.print(f"and {rest} more layers: --layers 0 shows all", style="dim", highlight=False)
            console.print(table.dear_text(profiled), highlight=False, markup=False)
            console.print(table.kinds(profiled))
