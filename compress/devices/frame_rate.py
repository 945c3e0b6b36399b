"""Conversion of a frame rate on a device to a FLOPs and a latency budget."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import yaml

from compress.config import CONF, Config, LatencyFit
from compress.errors import UserError
from compress.units import format_flops

log = logging.getLogger(__name__)


def resolve(config: Config) -> Config:
    """Sets `budget.flops` and `budget.latency_ms` from `budget.fps`; a config without `budget.fps` is unchanged.

    The FLOPs are those of the fastest runtime and precision among the run's targets for which latencies were
    published; INT8 only if the run quantizes. Resolving a resolved config changes nothing. Raises UserError if there
    are no published latencies, no network reaches the frame rate on the device, or another key also sets the budget.
    """
    fps = config.budget.fps
    if fps is None:
        return config
    limit = 1000 / fps
    fit = max(_fits(config), key=lambda line: (limit - line.a_ms) / line.b_ms_per_gflop)
    gflops = (limit - fit.a_ms) / fit.b_ms_per_gflop
    if gflops <= 0:
        highest = max(1000 / line.a_ms for line in _fits(config))
        intercept = f"{config.device.name} needs {fit.a_ms:.3g} ms even for a network of 0 FLOPs ({_label(fit)})"
        raise UserError("budget.fps", fps, f"{intercept}: set less than {highest:.0f}")
    derived = replace(config.budget, flops=format_flops(gflops * 1e9), latency_ms=limit)
    values = {f"budget.{key}": (getattr(config.budget, key), getattr(derived, key)) for key in ("flops", "latency_ms")}
    values["prune.ratio"] = (config.prune.ratio, None)
    for key, (value, resolved) in values.items():
        if value not in (None, resolved):
            remedy = f"{key}={value} also sets the budget: set {key}=null, or remove budget.fps"
            raise UserError("budget.fps", fps, remedy)
    log.info(
        "%g frames/s on %s: %s FLOPs and %.3g ms per frame, for %s at %.3g ms + %.3g ms per GFLOP (leave-one-out error "
        "over published networks: up to %.0f %%)%s",
        fps, config.device.name, derived.flops, limit, _label(fit), fit.a_ms, fit.b_ms_per_gflop, 100 * fit.error,
        _extrapolation(fit, gflops),
    )  # fmt: skip
    return replace(config, budget=derived)


@contextmanager
def fps_named_in_errors(config: Config) -> Iterator[None]:
    """In this context, a UserError on the `budget.flops` that `resolve` derived names `budget.fps` instead."""
    try:
        yield
    except UserError as error:
        if config.budget.fps is None or error.key != "budget.flops":
            raise
        remedy = f"is {config.budget.flops} FLOPs on {config.device.name}: {error.remedy}"
        raise UserError("budget.fps", config.budget.fps, remedy) from None


def _fits(config: Config) -> list[LatencyFit]:
    """The device's lines for the targets and precisions of this run."""
    device = config.device
    if not device.fits:
        profiles = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONF / "device").glob("*.yaml"))}
        known = ", ".join(name for name, profile in profiles.items() if profile.get("fits"))
        remedy = f"device={device.name} has no published latencies: set budget.flops, or one of the devices {known}"
        raise UserError("budget.fps", config.budget.fps, remedy)
    fits = [fit for fit in device.fits if fit.precision != "int8" or "quantize" in config.stages]
    if usable := [fit for fit in fits if fit.runtime in (config.targets or [])]:
        return usable
    runtimes = ", ".join(dict.fromkeys(fit.runtime for fit in fits))
    remedy = f"{device.name} has latencies of {runtimes} only: add one, or set budget.flops instead of budget.fps"
    raise UserError("targets", config.targets, remedy)


def _label(fit: LatencyFit) -> str:
    return f"{fit.runtime}/{fit.precision}"


def _extrapolation(fit: LatencyFit, gflops: float) -> str:
    """A clause for `gflops` outside of the fitted range; empty within it."""
    least, most = fit.gflops
    if least <= gflops <= most:
        return ""
    outside = f"; {gflops:.3g} GFLOPs are outside of the {least:.3g} to {most:.3g} that the line was fitted on"
    if gflops > most:
        return f"{outside}: an extrapolation"
    intercept = fit.a_ms / (fit.a_ms + fit.b_ms_per_gflop * gflops)
    return f"{outside}: {intercept:.0%} of the {_label(fit)} time is the line's intercept, which is extrapolated"
