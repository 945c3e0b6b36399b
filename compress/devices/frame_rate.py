"""A frame rate on a device as a limit on the latency."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from compress.config import HOST, Config
from compress.errors import UserError


def resolve(config: Config) -> Config:
    """Sets `budget.latency_ms` from `budget.fps`; a config without `budget.fps` is unchanged. The stage prune then
    searches the FLOPs whose predicted latency meets it. Resolving a resolved config changes nothing. Raises UserError
    if the device is this machine, or another key also decides how much is pruned."""
    fps = config.budget.fps
    if fps is None:
        return config
    if config.device.name == HOST:
        remedy = "set device to the one that must reach it, see compress profile --devices all; or set budget.flops"
        raise UserError("budget.fps", fps, remedy)
    limit = 1000 / fps
    others = {"budget.flops": config.budget.flops, "prune.ratio": config.prune.ratio}
    if config.budget.latency_ms != limit:
        others["budget.latency_ms"] = config.budget.latency_ms
    for key, value in others.items():
        if value is not None:
            remedy = f"{key}={value} also sets the budget: set {key}=null, or remove budget.fps"
            raise UserError("budget.fps", fps, remedy)
    return replace(config, budget=replace(config.budget, latency_ms=limit))


@contextmanager
def fps_named_in_errors(config: Config) -> Iterator[None]:
    """In this context, a UserError on the `budget.latency_ms` that `resolve` derived names `budget.fps` instead."""
    try:
        yield
    except UserError as error:
        if config.budget.fps is None or error.key != "budget.latency_ms":
            raise
        remedy = f"is {config.budget.latency_ms:.4g} ms on {config.device.name}: {error.remedy}"
        raise UserError("budget.fps", config.budget.fps, remedy) from None
