"""From a frame rate on a device to the FLOPs and the milliseconds that a frame may cost, and back."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import yaml

from compress.budget import Remark
from compress.config import CONF, Config, DeviceConfig, LatencyFit
from compress.errors import UserError
from compress.ledger import Row
from compress.units import format_flops

log = logging.getLogger(__name__)


def resolve(config: Config) -> Config:
    """`budget.fps` turned into `budget.flops` and `budget.latency_ms`; a config without it comes back as it is.

    FLOPs are those of the fastest of the files that the run makes, of what times were published for: its targets, and
    INT8 where it quantizes. What was resolved once is left alone.

    Raises:
        UserError: no published times to go by, a rate that the device cannot reach with any network, or a budget that
            was also given in another way.
    """
    fps = config.budget.fps
    if fps is None:
        return config
    limit = 1000 / fps
    fit = max(_fits(config), key=lambda each: (limit - each.a_ms) / each.b_ms_per_gflop)
    gflops = (limit - fit.a_ms) / fit.b_ms_per_gflop
    if gflops <= 0:
        most = max(1000 / each.a_ms for each in _fits(config))
        raise UserError(
            "budget.fps",
            fps,
            f"{config.device.name} takes {fit.a_ms:.3g} ms for a network of no FLOPs at all ({_label(fit)}): "
            f"set less than {most:.0f}",
        )
    derived = replace(config.budget, flops=format_flops(gflops * 1e9), latency_ms=limit)
    said = {f"budget.{key}": (getattr(config.budget, key), getattr(derived, key)) for key in ("flops", "latency_ms")}
    said["prune.ratio"] = (config.prune.ratio, None)
    for key, (given, ours) in said.items():
        if given not in (None, ours):
            raise UserError(
                "budget.fps",
                fps,
                f"{key}={given} says it in another way: add {key}=null, or drop budget.fps",
            )
    log.info(
        "%g frames/s on %s: %s FLOPs and %.3g ms a frame, if %s takes %.3g ms + %.3g ms a GFLOP (error for a published "
        "network that the line was fitted without: up to %.0f %%)%s",
        fps, config.device.name, derived.flops, limit, _label(fit), fit.a_ms, fit.b_ms_per_gflop, 100 * fit.error,
        _beyond(fit, gflops),
    )  # fmt: skip
    return replace(config, budget=derived)


@contextmanager
def named_by_frame_rate(config: Config) -> Iterator[None]:
    """While open, what is wrong with a budget that `resolve` derived is said of `budget.fps`, which the user gave."""
    try:
        yield
    except UserError as error:
        if config.budget.fps is None or error.key != "budget.flops":
            raise
        found = f"is {config.budget.flops} FLOPs on {config.device.name}: {error.remedy}"
        raise UserError("budget.fps", config.budget.fps, found) from None


def remarks(device: DeviceConfig, rows: Sequence[Row]) -> list[Remark]:
    """What the device's published times predict for the files of the final network."""
    last = rows[-1]
    made = {(row.target, row.precision) for row in rows if row.flops == last.flops}
    if device.precisions:
        made = {(target, precision) for target, precision in made if precision in device.precisions}
    found = [fit for fit in device.fits if (fit.runtime, fit.precision) in made]
    if not found:
        return []
    gflops = last.flops / 1e9
    numbers = {_label(fit): fit.a_ms + fit.b_ms_per_gflop * gflops for fit in found}
    text = (
        f"Predicted on {device.name}: "
        + ", ".join(f"{ms:.3g} ms ({label})" for label, ms in numbers.items())
        + ". From published times of other networks; for one that the line was fitted without, the error was up to "
        + f"{max(f.error for f in found):.0%}, and other generations of networks can be further off"
        + _beyond(found[0], gflops)
        + ". A prediction is not judged: time the files on the device with the bench kit."
    )
    return [Remark("predicted_latency", text, numbers, lasting=True)]


def _fits(config: Config) -> list[LatencyFit]:
    """The lines of the device for files that this run makes. Raises UserError where there are none."""
    device = config.device
    if not device.fits:
        profiles = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONF / "device").glob("*.yaml"))}
        known = ", ".join(name for name, facts in profiles.items() if facts.get("fits"))
        remedy = f"no times of device={device.name} are known: set budget.flops, or a device that has some: {known}"
        raise UserError("budget.fps", config.budget.fps, remedy)
    precise = [fit for fit in device.fits if fit.precision != "int8" or "quantize" in config.stages]
    found = [fit for fit in precise if fit.runtime in (config.targets or [])]
    if not found:
        runtimes = ", ".join(dict.fromkeys(fit.runtime for fit in precise))
        raise UserError("targets", config.targets, f"times of {device.name} are known for {runtimes}: add it, or "
                        "set budget.flops instead of budget.fps")  # fmt: skip
    return found


def _label(fit: LatencyFit) -> str:
    return f"{fit.runtime}/{fit.precision}"


def _beyond(fit: LatencyFit, gflops: float) -> str:
    """How far the line is trusted too far, as the end of a sentence."""
    least, most = fit.gflops
    if least <= gflops <= most:
        return ""
    outside = f"; {gflops:.3g} GFLOPs lie outside of the {least:.3g} to {most:.3g} that it was fitted on"
    if gflops > most:
        return f"{outside}, so an extrapolation"
    intercept = fit.a_ms / (fit.a_ms + fit.b_ms_per_gflop * gflops)
    return f"{outside}: {intercept:.0%} of the {_label(fit)} time is the line's intercept, which no network confirms"
