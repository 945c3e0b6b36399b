"""compress: from one FLOP budget to verified INT8 artifacts for edge devices.

import compress

compress.get_flops(model, imgsz=640)                        # 1 MAC = 2 FLOPs
compress.measure(model, example_input)                      # MACs, parameters, memory traffic
compress.run(compress.compose(["recipe=drone_nano"]))       # what the command line does
compress.load("outputs/latest/pruned")                      # a pruned model, rebuilt without pickle
compress.prune(model, "50%")                                # without data: not fine-tuned, not evaluated
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

# Set before torch is imported, so that its CPU allocator requests huge pages. Most virtual machines grant them on
# request only; training is up to twice as fast with them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# Set before ONNX Runtime is imported: seconds later it would send telemetry, on Linux too.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from compress.capabilities import Checkpointable, Model
    from compress.config import Config, PruneConfig, compose
    from compress.measurement.cost import Cost
    from compress.measurement.programs import Network
    from compress.pipeline import Result

M = TypeVar("M", bound="Model")

__version__ = "0.1.0"
__all__ = ["Config", "PruneConfig", "compose", "get_flops", "load", "measure", "prune", "run"]


def __getattr__(name: str) -> Any:
    """Imports the configuration on first use: it takes a second, in which a command could not be interrupted."""
    if name in ("Config", "PruneConfig", "compose"):
        from compress import config

        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _expect(good: bool, name: str, value: object, remedy: str) -> None:
    """Raises UserError unless an argument is `good`."""
    from compress.errors import UserError

    if not good:
        raise UserError(name, f"{value!r:.60} ({type(value).__name__})", f"set {remedy}")


def _is_model(value: object) -> bool:
    """Whether a value is a `Model`. Looks at the class only, because the properties may raise."""
    return hasattr(type(value), "example_input") and hasattr(type(value), "deployed")


def run(config: Config, folder: str | Path | None = None) -> Result:
    """Runs a recipe as the command line does, into `folder` (default: `outputs/<recipe>/<date_time>`). An interrupted
    run of the same configuration continues in its folder. Raises UserError before any work, if the configuration cannot
    work or `folder` holds another run."""
    from compress import pipeline, run_folder
    from compress.config import Config, dump

    _expect(isinstance(config, Config), "config", config, 'a `Config`: compress.compose(["recipe=drone_nano"])')
    chosen = run_folder.choose(Path("outputs") / config.recipe_name, dump(config)) if folder is None else Path(folder)
    return pipeline.run(config, chosen)


def load(path: str | Path, trust: bool = False) -> Checkpointable:
    """The model that a run saved in its folder `pruned/`, bit-exact; `.net` is the torch module. `trust` imports code
    that the checkpoint names; classes of this package, timm and Ultralytics do not need it. Raises UserError for a
    missing, damaged or altered checkpoint, or one that names other code without `trust`."""
    from compress import checkpoint, models

    _expect(isinstance(path, str | Path), "path", path, "the folder of a checkpoint, such as outputs/latest/pruned")
    return checkpoint.load(Path(path), functools.partial(models.from_constructor, trust=trust))


def prune(model: M, flops: str, config: PruneConfig | None = None) -> M:
    """`model` pruned to `flops` ("50%" or "1.2G") without data, not fine-tuned. Channels are ranked by
    `config.importance`, one that needs no data (default: group_l2). Raises UserError, which names the range, if the
    budget cannot be reached."""
    from compress.capabilities import Prunable, require
    from compress.config import PruneConfig
    from compress.pruning import solver
    from compress.stages.prune import counter
    from compress.units import FlopsLimit

    _expect(_is_model(model), "model", model, "a `Model`: compress.load(…) makes one")
    prunable = require(model, Prunable, "model", type(model).__name__)
    (net, protected), count = prunable.prunable(), counter(prunable)
    config, budget = config or PruneConfig(), FlopsLimit.parse(flops).of(2 * count(net)) / 2
    pruned = solver.prune_to_flops(net, model.example_input(), protected, config, budget_macs=budget, count=count)
    result = prunable.with_net(pruned.net)
    assert isinstance(result, type(model))
    return result


def measure(
    model: Network,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    unknown: Literal["error", "warn"] = "error",
) -> Cost:
    """MACs, FLOPs, parameters, bytes moved, bit operations and peak activation bytes of one forward pass
    `model(*inputs, **kwargs)`, in total and per layer, by the conventions of `compress/measurement/flops.py`.

    Args:
        model: a module, TorchScript, or a program of torch.export.
        inputs: tensors, or nested tuples, lists and dicts of tensors, of the shapes that the model takes.
        kwargs: inputs by keyword.
        unknown: what to do about operators without a formula. "error" refuses them, "warn" logs each once and counts
            its calls apart, in `Cost.unknown`; the other numbers are then lower bounds.

    Raises:
        UserError: there is no tensor among the inputs, or an operator cannot be counted; the message names it.
    """
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    from compress.measurement import flops
    from compress.measurement.programs import Network

    _expect(isinstance(model, Network), "model", model, "a torch module, TorchScript or an exported program")
    good = any(isinstance(leaf, Tensor) for leaf in tree_leaves((inputs, kwargs)))
    _expect(good, "inputs", inputs, "a tensor of the shape that the model takes, or several")
    _expect(unknown in ("error", "warn"), "unknown", unknown, '"error" or "warn"')
    return flops.count(model, *inputs, kwargs=kwargs, unknown=unknown)


def get_flops(model: Network | Model, imgsz: int | None = None) -> int:
    """FLOPs (2 x MACs) of convolutions, linear layers and matrix products for one image. A `Model` of this package is
    counted fused, as it is deployed; a torch module, TorchScript or a program of torch.export as it is. `imgsz` is the
    side of the image in pixels; None: the input size of a `Model`, the example of an exported program, 640 for a torch
    module. Raises UserError if an operator cannot be counted, or a program takes no image of that size."""
    import torch
    from torch.export import ExportedProgram

    from compress.measurement import flops, programs, rows

    counted = isinstance(model, programs.Network) or _is_model(model)
    _expect(counted, "model", model, "a torch module, TorchScript, an exported program, or a `Model` of this package")
    positive = imgsz is None or (isinstance(imgsz, int) and imgsz > 0)
    _expect(positive, "imgsz", imgsz, "the side of the image in pixels, or None")
    if isinstance(model, ExportedProgram):
        args, kwargs = programs.example(model, imgsz)
        return flops.count(model, *args, kwargs=kwargs).flops
    if isinstance(model, torch.nn.Module):
        return flops.count(model, torch.zeros(1, programs.channels(model), imgsz or 640, imgsz or 640)).flops
    return rows.flops_at(model, imgsz or model.imgsz)
